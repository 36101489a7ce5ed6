"""message/global (RFC 6532 §3.7) in BODY and BODYSTRUCTURE: a message like message/rfc822, for
those that enabled IMAP4rev2 or UTF8=ACCEPT; in IMAP4rev1's grammar it is a part like others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from resel_lda.imap.view import View
from resel_lda.mime import sections

_GLOBAL = b'"message" "global"'

Structures = Mapping[int, tuple[bytes, bytes]]


async def with_global(view: View, structures: Structures) -> Structures:
    """By UID (BODY, BODYSTRUCTURE). The few messages that have such a part are read."""
    if not view.international:
        return structures
    few = [uid for uid, (body, _) in structures.items() if _GLOBAL in body.lower()]
    if not few:
        return structures
    messages = await view.mailbox.read_many(few)
    rendered = {uid: await asyncio.to_thread(_render, data) for uid, data in messages.items()}
    return {**structures, **rendered}


def _render(message: bytes) -> tuple[bytes, bytes]:
    root = sections.parse(message, with_global=True)
    return sections.render_body(root), sections.render_bodystructure(root)
