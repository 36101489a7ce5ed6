"""An index of three-letter pieces of all text, which only says where a text is surely not.

What it leaves is read and decoded, so that SEARCH BODY and TEXT keep their exact meaning. It lies
in `cache`, one entry for about 1 KB of a mail of 6 KB.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import apsw

from resel_lda.maildir.database import Database, all_rows

# complete: the whole text is in the index, so that its absence there says something.
SCHEMA = """
CREATE VIRTUAL TABLE fulltext USING fts5(
  body, content = '', contentless_delete = 1, detail = none,
  tokenize = 'trigram case_sensitive 1');
CREATE TABLE indexed (key INTEGER PRIMARY KEY, complete INTEGER NOT NULL);
"""
_LETTERS = 3
# Longer texts are searched by reading them.
_LONGEST = 512 * 1024
# Pieces of a needle that are looked up; more exclude hardly anything more.
_MOST_PIECES = 24


class FullText:
    """Keys are those of `cache.CacheFile`. Methods block; raise apsw.Error."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, texts: Iterable[tuple[int, str]]) -> None:
        """(key, folded text) of messages."""

        def work(db: apsw.Connection) -> None:
            for key, text in texts:
                complete = len(text) <= _LONGEST
                if complete:
                    clean = text.encode("utf-8", "replace").decode("utf-8")
                    db.execute("DELETE FROM fulltext WHERE rowid = ?", (key,))
                    db.execute("INSERT INTO fulltext (rowid, body) VALUES (?, ?)", (key, clean))
                db.execute("INSERT OR REPLACE INTO indexed VALUES (?, ?)", (key, int(complete)))

        self._database.run(work)

    def known(self, first: int, last: int) -> set[int]:
        """Keys in this range that were given to `add`."""
        sql = "SELECT key FROM indexed WHERE key BETWEEN ? AND ?"
        return self._database.read(lambda db: {key for (key,) in all_rows(db, sql, first, last)})

    def possible(self, keys: Sequence[int], needle: str) -> tuple[set[int], list[int]]:
        """(keys of which the index does not say no, keys that it knows nothing about)."""
        pieces = _pieces(needle)
        if not keys or not pieces:
            return set(), list(keys)
        query = " AND ".join(pieces)
        low, high = min(keys), max(keys)

        def work(db: apsw.Connection) -> tuple[set[int], set[int]]:
            complete = "SELECT key FROM indexed WHERE key BETWEEN ? AND ? AND complete"
            match = "SELECT rowid FROM fulltext WHERE fulltext MATCH ? AND rowid BETWEEN ? AND ?"
            return (
                {key for (key,) in all_rows(db, match, query, low, high)},
                {key for (key,) in all_rows(db, complete, low, high)},
            )

        hits, known = self._database.run(work)
        return hits.intersection(keys), [key for key in keys if key not in known]

    def remove(self, db: apsw.Connection, keys: Collection[tuple[int]]) -> None:
        """Within a transaction of the caller's."""
        db.executemany("DELETE FROM fulltext WHERE rowid = ?", keys)
        db.executemany("DELETE FROM indexed WHERE key = ?", keys)

    def forget(self, db: apsw.Connection, first: int, last: int) -> None:
        """All keys of a range, within a transaction of the caller's."""
        db.execute("DELETE FROM fulltext WHERE rowid BETWEEN ? AND ?", (first, last))
        db.execute("DELETE FROM indexed WHERE key BETWEEN ? AND ?", (first, last))


def _pieces(needle: str) -> list[str]:
    """As FTS5 strings; none of a needle that is too short, or cannot be in a query."""
    if "\0" in needle:
        return []
    count = len(needle) - _LETTERS + 1
    found = dict.fromkeys(needle[at : at + _LETTERS] for at in range(max(count, 0)))
    return ['"' + piece.replace('"', '""') + '"' for piece in list(found)[:_MOST_PIECES]]
