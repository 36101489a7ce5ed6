"""Metadata of folders and of the server (RFC 5464), in `state`. Everything here blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import apsw

from resel_lda.mailbox import MailboxError
from resel_lda.maildir.database import all_rows
from resel_lda.maildir.state import StateFile

MAX_ENTRIES = 200
SPECIAL_USE = "/private/specialuse"


class Annotations:
    """Entries by folder name, "" being the server's. server: what is fixed there."""

    def __init__(self, state: StateFile, server: Mapping[str, bytes]) -> None:
        self._state = state
        self._server = server

    def read(self, name: str) -> dict[str, bytes]:
        """Raises apsw.Error."""
        found: dict[str, bytes] = self._state.database.read(
            lambda db: dict(
                all_rows(db, "SELECT entry, value FROM metadata WHERE folder = ?", name)
            )
        )
        return found if name else {**found, **self._server}

    def write(self, name: str, values: Mapping[str, bytes | None]) -> None:
        """All or none, durable; None removes an entry. A special use is the folder's (RFC 6154
        §5.4). Raises MailboxError("METADATA TOOMANY"), apsw.Error."""

        def work(db: apsw.Connection) -> None:
            for entry, value in values.items():
                db.execute("DELETE FROM metadata WHERE folder = ? AND entry = ?", (name, entry))
                if value is not None and entry != SPECIAL_USE:
                    db.execute("INSERT INTO metadata VALUES (?, ?, ?)", (name, entry, value))
            ((count,),) = all_rows(db, "SELECT count(*) FROM metadata WHERE folder = ?", name)
            if count > MAX_ENTRIES:
                raise MailboxError("Too many annotations", "METADATA TOOMANY")

        with self._state.database.synced():
            self._state.database.run(work)
        if SPECIAL_USE in values:
            self._state.set_special_use(name, (values[SPECIAL_USE] or b"").decode("ascii"))

    def moved(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Folders have new names (old, new)."""

        def work(db: apsw.Connection) -> None:
            db.executemany("DELETE FROM metadata WHERE folder = ?", [(new,) for _, new in pairs])
            db.executemany(
                "UPDATE metadata SET folder = ? WHERE folder = ?",
                [(new, old) for old, new in pairs],
            )

        with self._state.database.synced():
            self._state.database.run(work)

    def forget(self, name: str) -> None:
        """A deleted folder."""
        self._state.database.run(
            lambda db: db.execute("DELETE FROM metadata WHERE folder = ?", (name,))
        )
