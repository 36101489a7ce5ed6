"""What messages say: taking it, reading it, and setting aside what is damaged."""

from __future__ import annotations

from resel_mta.content import Body, Content, Header, MemoryBody
from resel_mta.mail import BodySink, Message, Reply, TempFail
from resel_mta.maillog import MailLog
from resel_mta.queue import changes, rows
from resel_mta.queue.administration import Administration, number_of
from resel_mta.queue.ids import parse_id
from resel_mta.queue.spool import THRESHOLD, FileBody, NotWhole, SpoolSink, disk_failure

GONE = Reply(451, "4.3.0", "Error: the message is no longer in the queue")
DAMAGED = Reply(451, "4.3.0", "Error: the message is damaged and was set aside")


class Contents(Administration):
    """The part of `SQLiteStore` that takes and reads content."""

    _log: MailLog | None

    def check_space(self, size: int) -> None:
        self._spool.check_space(size)

    def sink(self) -> BodySink:
        self._spool.check_space()
        return SpoolSink(self._spool, self._executor)

    async def discard(self, content: Content) -> None:
        body = content.body
        if isinstance(body, FileBody):
            await self._in_thread(self._spool.remove, body.path)

    async def _settle_body(self, message: Message) -> None:
        """A large body lies in its final place, synced, before the row is written."""
        content = message.content
        if content is None:
            raise ValueError("a message is entered with its content")
        body = content.body
        if isinstance(body, MemoryBody) and body.size <= THRESHOLD:
            return
        try:
            content.body = await self._in_thread(self._keep_file, message.queue_id, body)
        except OSError as error:
            await self.discard(content)
            raise disk_failure(error) from error

    def _keep_file(self, name: str, body: Body) -> FileBody:
        file = body if isinstance(body, FileBody) else self._spool.copy(body)
        self._spool.keep(file, name)
        return file

    async def content(self, message: Message) -> Content:
        number = number_of(message.queue_id)
        found = await self._writer.submit(lambda db: rows.content(db, number), changes=False)
        if found is None:
            raise TempFail(GONE)
        header, body, spooled, reason = found
        if spooled is not None:
            try:
                body = await self._in_thread(self._spool.open_content, message.queue_id, spooled)
            except NotWhole as error:
                reason = f"content file: {error}"
            except OSError as error:
                # A folder with a wrong owner, a disk that fails: it may be readable again.
                text = f"message content could not be read: {error.strerror}"
                raise TempFail(Reply(451, "4.3.0", text)) from error
        elif body is not None:
            body = MemoryBody(body)
        if reason:
            await self._set_aside(number, message.queue_id, header, reason)
            raise TempFail(DAMAGED)
        return Content(Header(header), body)

    async def _set_aside(self, number: int, queue_id: str, header: bytes, reason: str) -> None:
        """Rule 4: the row stays, marked, and nothing is tried any more."""
        try:
            await self._in_thread(self._spool.set_aside, queue_id, header)
        except OSError as error:
            reason = f"{reason}; not moved: {error}"
        await self._writer.submit(lambda db: changes.mark_corrupt(db, number))
        if self._log is not None:
            self._log.warning("qmgr", f"corrupt message set aside: {reason}", queue_id)
        self._withdrawn([queue_id])

    async def load(self, queue_id: str) -> Message | None:
        number = parse_id(queue_id)
        if number is None:
            return None
        message: Message | None = await self._writer.submit(
            lambda db: rows.read(db, number), changes=False
        )
        if message is not None:
            message.content = await self.content(message)
        return message
