"""Both kinds of store under one name, and certificates."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from imap_fake import FakeStore

from resel_lda.mailbox import MailStore
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User


@pytest.fixture(params=["fake", "maildir"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MailStore]:
    """An empty store, once in memory and once on disk."""
    if request.param == "fake":
        yield FakeStore()
        return
    settings = Settings.build("server", mail_location=f"maildir:{tmp_path}/mail/%u")
    user = User("lcarr", home=str(tmp_path))
    real = MaildirStore(user, settings, Disk(), MailLog(StreamSink(2)))
    try:
        yield real
    finally:
        await real.close()


@pytest.fixture
def fake() -> FakeStore:
    return FakeStore()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
