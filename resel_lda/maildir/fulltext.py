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
# Copies share their text. doc: under which number it is in the index, the key of the message that
# had it first.
SHARED = """
ALTER TABLE indexed ADD COLUMN doc INTEGER;
UPDATE indexed SET doc = key;
CREATE INDEX indexed_doc ON indexed (doc);
"""
_LETTERS = 3
# Longer texts are searched by reading them.
_LONGEST = 512 * 1024
# Pieces of a needle that are looked up; more exclude hardly anything more.
_MOST_PIECES = 24
_BATCH = 500


class FullText:
    """Keys are those of `cache.CacheFile`. Methods block; raise apsw.Error."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, texts: Iterable[tuple[int, str]]) -> None:
        """(key, folded text) of messages."""

        def work(db: apsw.Connection) -> None:
            for key, text in texts:
                self.remove(db, [(key,)])
                complete, doc = len(text) <= _LONGEST, key
                if complete:
                    clean = text.encode("utf-8", "replace").decode("utf-8")
                    # Numbers of deleted folders come again, and copies of their mail may be there.
                    taken = all_rows(db, "SELECT 1 FROM indexed WHERE doc = ? LIMIT 1", key)
                    number = None if taken else key
                    db.execute("INSERT INTO fulltext (rowid, body) VALUES (?, ?)", (number, clean))
                    doc = db.last_insert_rowid()
                db.execute("INSERT INTO indexed VALUES (?, ?, ?)", (key, int(complete), doc))

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
            complete = "SELECT key, doc FROM indexed WHERE key BETWEEN ? AND ? AND complete"
            match = "SELECT rowid FROM fulltext WHERE fulltext MATCH ? AND rowid BETWEEN ? AND ?"
            docs: dict[int, int] = dict(all_rows(db, complete, low, high))
            found = {doc for (doc,) in all_rows(db, match, query, low, high)}
            elsewhere = [doc for doc in docs.values() if not low <= doc <= high]
            if elsewhere:
                rows = all_rows(db, match, query, min(elsewhere), max(elsewhere))
                found.update(doc for (doc,) in rows)
            return {key for key, doc in docs.items() if doc in found}, set(docs)

        hits, known = self._database.run(work)
        return hits.intersection(keys), [key for key in keys if key not in known]

    def remove(self, db: apsw.Connection, keys: Collection[tuple[int]]) -> None:
        """Within a transaction of the caller's."""
        docs: list[tuple[int]] = []
        values = [key for (key,) in keys]
        for start in range(0, len(values), _BATCH):
            some = values[start : start + _BATCH]
            marks = ",".join("?" * len(some))
            docs += all_rows(db, f"DELETE FROM indexed WHERE key IN ({marks}) RETURNING doc", *some)
        self._drop(db, docs)

    def forget(self, db: apsw.Connection, first: int, last: int) -> None:
        """All keys of a range, within a transaction of the caller's."""
        sql = "DELETE FROM indexed WHERE key BETWEEN ? AND ? RETURNING doc"
        self._drop(db, all_rows(db, sql, first, last))

    def copy(self, db: apsw.Connection, keys: Collection[tuple[int, int]]) -> None:
        """keys: (new, old). Within a transaction of the caller's."""
        copied = "INSERT OR IGNORE INTO indexed SELECT ?, complete, doc FROM indexed WHERE key = ?"
        db.executemany(copied, keys)

    @staticmethod
    def _drop(db: apsw.Connection, docs: Collection[tuple[int]]) -> None:
        """Texts that no message has any more."""
        unused = "NOT EXISTS (SELECT 1 FROM indexed WHERE doc = ?1)"
        db.executemany(f"DELETE FROM fulltext WHERE rowid = ?1 AND {unused}", docs)


def _pieces(needle: str) -> list[str]:
    """As FTS5 strings; none of a needle that is too short, or cannot be in a query."""
    if "\0" in needle:
        return []
    count = len(needle) - _LETTERS + 1
    found = dict.fromkeys(needle[at : at + _LETTERS] for at in range(max(count, 0)))
    return ['"' + piece.replace('"', '""') + '"' for piece in list(found)[:_MOST_PIECES]]
