"""Real mail programs that call sendmail."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sendmail_helpers import Office


@pytest.fixture
def program(office: Office) -> Path:
    """A file that is sendmail."""
    path = office.directory / "sendmail"
    words = " ".join(map(shlex.quote, office.words([])))
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
    return path


async def call(office: Office, words: list[str], data: bytes, **variables: str) -> None:
    environment = office.environment() | {"HOME": str(office.directory), "LC_ALL": "C.UTF-8"}
    environment |= variables
    done = await asyncio.to_thread(
        subprocess.run, words, input=data, capture_output=True, timeout=30, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""


async def test_sendmail_clients_bsd_mailx(
    office: Office, program: Path, need: Callable[[str], str]
) -> None:
    rc = office.directory / "mailrc"
    rc.write_text(f"set sendmail={program}\n")
    words = [need("bsd-mailx"), "-n", "-s", "report", "-c", "lcarr", "root"]
    await call(office, words, "ligne é\n".encode(), MAILRC=str(rc))
    # It does not wait for sendmail's end.
    async with asyncio.timeout(30):
        await office.intake.entered.wait()
    (taken,) = office.intake.taken
    assert sorted(taken.recipients) == ["lcarr", "root"]
    assert b"Subject: report\r\n" in taken.data
    assert "ligne é\r\n".encode() in taken.data


async def test_sendmail_clients_mutt(
    office: Office, program: Path, need: Callable[[str], str]
) -> None:
    rc = office.directory / "muttrc"
    rc.write_text(
        f'set sendmail="{program} -oem -oi"\nset sendmail_wait=30\nset copy=no\n'
        "set use_envelope_from=yes\nset envelope_from_address=lcarr@resel.fr\n"
        "set from=lcarr@resel.fr\nset hostname=vm1\n"
    )
    words = [need("mutt"), "-n", "-F", str(rc), "-s", "été", "-b", "b@resel.fr", "root@resel.fr"]
    await call(office, words, b"corps\n.\n..\n")
    (taken,) = office.intake.taken
    assert sorted(taken.recipients) == ["b@resel.fr", "root@resel.fr"]
    assert taken.envelope.reverse_path == "lcarr@resel.fr"
    assert taken.data.endswith(b"\r\n\r\ncorps\r\n.\r\n..\r\n")
    assert b"b@resel.fr" not in taken.data
    assert taken.origin.uid == os.getuid()
