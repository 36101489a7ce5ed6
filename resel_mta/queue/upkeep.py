"""What postsuper(1) does with -s and -p: looking at everything that is stored and setting aside what
is damaged, and removing files that a crash has left. Each start does the same for what can be seen at
a glance; here each message is looked at, a few at a time, while mail goes on."""

from __future__ import annotations

import abc
import os
from pathlib import Path

import apsw

from resel_mta.queue import changes, rows
from resel_mta.queue.contents import Contents
from resel_mta.queue.door import Checked, Swept
from resel_mta.queue.ids import format_id, parse_id
from resel_mta.queue.reserve import Reserve
from resel_mta.queue.salvage import without_envelope
from resel_mta.queue.schema import CORRUPT, check_envelopes, shrink
from resel_mta.queue.spool import NotWhole

PAGE = 100
"""Messages that are read at once."""
LEFT_AFTER = 3600.0
"""Seconds after which a content that no message mentions is not on its way to one."""


class Upkeep(Contents, abc.ABC):
    """The part of `SQLiteStore` that checks and tidies up."""

    _path: str
    _reserve: Reserve
    # What was said of damaged databases that were set aside since the last check.
    _set_aside_databases: tuple[str, ...] = ()

    @abc.abstractmethod
    def _report(self, text: str) -> None:
        """In any thread: a warning for the operator."""

    def _salvaged(self, db: apsw.Connection, text: str) -> None:
        """In any thread: a damaged database was set aside, and this is the new one."""
        self._set_aside_databases = (*self._set_aside_databases, text)
        self._report(text)
        claimed = db.execute("SELECT id FROM message WHERE owner IS NOT NULL")
        self._loop.call_soon_threadsafe(self._restored, [format_id(n) for (n,) in claimed])

    def _restored(self, claimed: list[str]) -> None:
        for watcher in self._watchers if claimed else ():
            watcher.restored(claimed)

    def _idle(self, db: apsw.Connection) -> bool:
        """In the writer's thread: there is nothing to do. Whether there is more to tidy up."""
        self._reserve.keep()
        return shrink(db)

    async def check(self) -> Checked:
        # The writer sets a damaged database aside by itself.
        await self._writer.submit(check_envelopes, changes=False)
        checked = Checked()
        await self._check_relations(checked)
        await self._check_contents(checked)
        found, self._set_aside_databases = self._set_aside_databases, ()
        checked.problems[:0] = found
        checked.octets = await self._in_thread(os.path.getsize, self._path)
        checked.left = len(await self._left_over())
        return checked

    async def _check_relations(self, checked: Checked) -> None:
        """Rows that are there without others that they need."""
        damaged = (await self.audit(0.0)).damaged
        if not damaged:
            return
        corrupt, disk = self._spool.root / "corrupt", self._spool.disk

        def repair(db: apsw.Connection) -> tuple[set[int], list[int]]:
            bare = set(without_envelope(db, corrupt, disk))
            numbers = [number for name in damaged if (number := parse_id(name)) is not None]
            marked = []
            for number in numbers:
                if rows.exists(db, number) and _state(db, number) != CORRUPT:
                    changes.mark_corrupt(db, number)
                    marked.append(number)
            return bare, marked

        bare, marked = await self._writer.submit(repair)
        for name, what in damaged.items():
            number = parse_id(name)
            if number in bare:
                checked.problems.append(f"{name}: {what}: its content is now {corrupt}/{name}.eml")
            elif number in marked:
                checked.problems.append(f"{name}: {what}: marked as corrupt")
        self._withdrawn([format_id(number) for number in marked])

    async def _check_contents(self, checked: Checked) -> None:
        after = -1
        while True:
            page: list[int] = await self._writer.submit(
                lambda db, after=after: _page(db, after, PAGE),  # type: ignore[misc]
                changes=False,
            )
            for number in page:
                await self._check_content(number, checked)
            if len(page) < PAGE:
                return
            after = page[-1]

    async def _check_content(self, number: int, checked: Checked) -> None:
        def look(db: apsw.Connection) -> tuple[int, bytes, int | None, str] | None:
            found = rows.content(db, number)
            if found is None:
                return None
            header, _, spooled, reason = found
            return _state(db, number), header, spooled, reason

        found = await self._writer.submit(look, changes=False)
        if found is None:
            return
        state, header, spooled, reason = found
        name = format_id(number)
        checked.messages += 1
        if state == CORRUPT:
            checked.corrupt += 1
            return
        if spooled is not None and not reason:
            checked.files += 1
            try:
                await self._in_thread(self._spool.open_content, name, spooled)
            except NotWhole as error:
                reason = f"content file: {error}"
            except OSError as error:
                # It is tried all the same, and may be readable by then.
                checked.problems.append(f"{name}: content file: {error.strerror}: {error.filename}")
        if reason and await self.get(name) is not None:
            await self._set_aside(number, name, header, reason)
            checked.problems.append(f"{name}: {reason}: marked as corrupt")

    async def wake_stranded(self, after: float) -> int:
        numbers: list[int] = await self._writer.submit(
            lambda db: changes.stranded(db, after, PAGE), changes=False
        )
        return await self.wake(map(format_id, numbers)) if numbers else 0

    async def sweep(self) -> Swept:
        left = await self._left_over()
        found: Swept = await self._in_thread(self._spool.remove_left, left)
        before, self._spool.swept = self._spool.swept, Swept()
        return Swept(found.files + before.files, found.octets + before.octets)

    async def _left_over(self) -> list[Path]:
        """Files of nobody."""
        temporary, contents = await self._in_thread(self._spool.may_be_left, LEFT_AFTER)

        def unknown(db: apsw.Connection) -> list[Path]:
            return [
                path
                for path in contents
                if (number := parse_id(path.name)) is None or not rows.exists(db, number)
            ]

        left: list[Path] = await self._writer.submit(unknown, changes=False)
        return [*temporary, *left]


def _page(db: apsw.Connection, after: int, n: int) -> list[int]:
    """The numbers of the next messages."""
    query = "SELECT id FROM message WHERE id > ? ORDER BY id LIMIT ?"
    return [number for (number,) in db.execute(query, (after, n))]


def _state(db: apsw.Connection, number: int) -> int:
    """Of a message that is there."""
    found: int = db.execute("SELECT state FROM message WHERE id = ?", (number,)).get
    return found
