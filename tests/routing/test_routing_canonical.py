"""Canonical maps, masquerading and automatic copies, through the intake's own classes."""

from __future__ import annotations

import pytest

from resel_mta.config import Settings
from resel_mta.content import Header
from resel_mta.mail import Envelope, Notify, Recipient
from resel_mta.routing import RoutingTable
from resel_mta.routing.bcc import AutomaticBcc
from resel_mta.routing.canonical import Canonical
from resel_mta.users import open_users


def settings(**values: str) -> Settings:
    defaults = {
        "myhostname": "vm.adm.resel.fr",
        "mydomain": "adm.resel.fr",
        "myorigin": "resel.fr",
        "alias_maps": "",
    }
    return Settings.build(**{**defaults, **values})


def canonical(**values: str) -> Canonical:
    found = settings(**values)
    return Canonical(found, RoutingTable(found, open_users(found)))


async def test_nothing_configured() -> None:
    assert not canonical().is_active


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("www-data@resel.fr", "web@resel.fr"),
        ("WWW-Data@RESEL.fr", "web@resel.fr"),
        ("www-data@other.example", "www-data@other.example"),
        ("a@old.example", "a@new.example"),
        ("a+x@b.example", "c+x@d.example"),
        ("loop@x.example", "loop@x.example"),
        ("one@x.example", "three@x.example"),
        ("", ""),
    ],
)
async def test_canonical(before: str, after: str) -> None:
    maps = (
        "inline:{www-data=web, @old.example=@new.example, a@b.example=c@d.example, "
        "loop@x.example=loop@x.example, one@x.example=two@x.example, two@x.example=three@x.example}"
    )
    rewriter = canonical(canonical_maps=maps, recipient_delimiter="+")
    assert await rewriter.rewrite(before, "envelope_sender") == after


async def test_classes() -> None:
    rewriter = canonical(
        sender_canonical_maps="inline:{a@x.example=sender@x.example}",
        recipient_canonical_maps="inline:{a@x.example=recipient@x.example}",
        recipient_canonical_classes="envelope_recipient",
    )
    header = Header(b"From: a@x.example\r\nTo: A <a@x.example>\r\nX-Note: a@x.example\r\n")
    await rewriter.rewrite_header(header)
    assert header.raw == b"From: sender@x.example\r\nTo: A <a@x.example>\r\nX-Note: a@x.example\r\n"
    assert await rewriter.rewrite("a@x.example", "envelope_recipient") == "recipient@x.example"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a@vm.resel.fr", "a@resel.fr"),
        ("a@b.c.RESEL.fr", "a@resel.fr"),
        ("a@resel.fr", "a@resel.fr"),
        ("a@x.keep.resel.fr", "a@x.keep.resel.fr"),
        ("root@vm.resel.fr", "root@vm.resel.fr"),
        ("a@notresel.fr", "a@notresel.fr"),
    ],
)
async def test_masquerade(before: str, after: str) -> None:
    rewriter = canonical(masquerade_domains="!keep.resel.fr resel.fr", masquerade_exceptions="root")
    assert await rewriter.rewrite(before, "envelope_sender") == after
    assert await rewriter.rewrite(before, "envelope_recipient") == before


async def test_bcc() -> None:
    found = settings(
        always_bcc="archive",
        sender_bcc_maps="inline:{boss@x.example=audit@x.example}",
        recipient_bcc_maps="inline:{@y.example=copy@x.example}",
    )
    bcc = AutomaticBcc(found, RoutingTable(found, open_users(found)))
    assert bcc.is_active
    envelope = Envelope("boss@x.example", [Recipient("a@y.example"), Recipient("audit@x.example")])
    await bcc.add(envelope)
    assert [(r.address, r.notify) for r in envelope.recipients[2:]] == [
        ("archive@resel.fr", Notify.NEVER),
        ("copy@x.example", Notify.NEVER),
    ]
