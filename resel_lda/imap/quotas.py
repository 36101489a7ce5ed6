"""GETQUOTA, GETQUOTAROOT, SETQUOTA (RFC 9208). There is one quota root: all of a user's mail."""

from __future__ import annotations

from resel_lda.imap import text
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import Parser
from resel_lda.imap.session import Session
from resel_lda.mailbox import QuotaInfo


async def get_quota(session: Session, args: Parser) -> str:
    args.space()
    root = args.astring()
    args.finish()
    quota = await session.store.quota()
    if quota is None or root != quota.name.encode():
        raise Refused("NO", "Quota root doesn't exist.", "NONEXISTENT")
    session.untagged(_response(quota))
    return "Getquota completed."


async def get_quota_root(session: Session, args: Parser) -> str:
    args.space()
    wire = args.astring()
    args.finish()
    mailbox = await session.open_folder(wire)
    mailbox.release()
    quota = await session.store.quota()
    words = [b"QUOTAROOT", text.mailbox(session.names.wire(mailbox.name))]
    if quota is not None:
        words.append(text.string(quota.name.encode()))
    session.untagged(b" ".join(words))
    if quota is not None:
        session.untagged(_response(quota))
    return "Getquotaroot completed."


async def set_quota(session: Session, args: Parser) -> str:
    raise Refused("NO", "Permission denied.", "NOPERM")


def _response(quota: QuotaInfo) -> bytes:
    """STORAGE in units of 1024 octets."""
    used, limit = -(-quota.octets // 1024), quota.limit // 1024
    return b"QUOTA %b (STORAGE %d %d)" % (text.string(quota.name.encode()), used, limit)
