"""Messages that take the place of a recipient of another: an alias expanded late, a .forward file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from resel_mta.content import Body, Content, Header
from resel_mta.mail import Envelope, Intake, Message, Origin, Recipient, Reply, TempFail

_BLOCK = 256 * 1024


async def enter_child(
    intake: Intake, message: Message, recipients: Sequence[Recipient], fields: bytes = b""
) -> str:
    """The queue id of a new message with its own copy of the content, for these recipients.
    fields: put before the header. Raises TempFail, PermFail."""
    content = message.content
    if content is None:
        raise TempFail(Reply(451, "4.3.0", "content is not at hand"))
    copy = Content(Header(fields + content.header.raw), await _copy(intake, content.body))
    envelope = message.envelope
    child = Envelope(
        envelope.reverse_path,
        [replace(recipient, row=0, attempts=0) for recipient in recipients],
        body=envelope.body,
        smtputf8=envelope.smtputf8,
        ret=envelope.ret,
        envid=envelope.envid,
    )
    return await intake.submit(child, copy, Origin(protocol="internal", service="local"))


async def _copy(intake: Intake, body: Body) -> Body:
    """A body of its own: the other one goes when the message it belongs to is done."""
    sink = intake.sink()
    try:
        offset = 0
        while block := await _read(body, offset):
            await sink.write(block)
            offset += len(block)
        return await sink.finish()
    except OSError as error:
        await sink.discard()
        raise TempFail(Reply(451, "4.3.0", "content cannot be read")) from error
    except BaseException:
        await sink.discard()
        raise


async def _read(body: Body, offset: int) -> bytes:
    if body.in_memory:
        return body.read(offset, _BLOCK)
    return await asyncio.to_thread(body.read, offset, _BLOCK)
