"""How a map is named in main.cf: ``type:table``, with ``proxy:`` before it or not.

``watch:`` before the type of a file (``watch:hash:/etc/mail/sympa_aliases``) says that an edit of
the file counts at once: another program writes it, and nobody calls newaliases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from resel_mta.config.grammar import split_items, unbrace

# Tables that are text files; those of the first group have a database in Postfix.
DATABASE_TYPES = frozenset(("hash", "btree", "lmdb"))
FILE_TYPES = DATABASE_TYPES | frozenset(("texthash", "regexp", "pcre", "cidr"))
INLINE_TYPES = frozenset(("inline", "static", "fail"))
COMBINED_TYPES = frozenset(("pipemap", "unionmap"))
UNIX_TABLES = frozenset(("passwd.byname", "group.byname"))
MAP_TYPES = FILE_TYPES | INLINE_TYPES | COMBINED_TYPES | frozenset(("unix", "proxy", "watch"))


@dataclass(frozen=True, slots=True)
class MapSpec:
    """type: "hash"…; name: the file or whatever stands after the colon; parts: of pipemap, unionmap.
    watched: an edit of the file counts at once."""

    type: str
    name: str
    parts: tuple[MapSpec, ...] = ()
    watched: bool = False

    def __str__(self) -> str:
        return f"{self.type}:{self.name}"

    def files(self) -> list[MapSpec]:
        """The file tables that this one reads."""
        if self.type in FILE_TYPES:
            return [self]
        return [spec for part in self.parts for spec in part.files()]


def parse_map(text: str, default_type: str = "hash") -> MapSpec:
    """Raises ValueError that says what is allowed."""
    kind, colon, name = text.partition(":")
    if not colon or "/" in kind:
        # Postfix: a bare file name has default_database_type.
        kind, name = default_type, text
    name = name.strip()
    if kind == "proxy":
        return parse_map(name, default_type)
    if kind == "watch":
        spec = parse_map(name, default_type)
        if spec.type not in FILE_TYPES:
            raise ValueError(f'"{text}": only a table that lies in a file can be watched')
        return replace(spec, watched=True)
    if kind not in MAP_TYPES:
        raise ValueError(
            f'map type "{kind}" is not supported; supported are: {", ".join(sorted(MAP_TYPES))}'
        )
    if not name:
        raise ValueError(f'"{text}" names no table')
    if kind in FILE_TYPES and not name.startswith("/"):
        raise ValueError(f'"{text}": the path of a table must be absolute')
    if kind == "unix" and name not in UNIX_TABLES:
        raise ValueError(f'"{text}" is not known; known are: {", ".join(sorted(UNIX_TABLES))}')
    if kind not in COMBINED_TYPES:
        return MapSpec(kind, name)
    if not (name.startswith("{") and name.endswith("}")):
        raise ValueError(f'"{text}": expected {kind}:{{type:table, type:table}}')
    parts = tuple(parse_map(unbrace(item), default_type) for item in split_items(unbrace(name)))
    if not parts:
        raise ValueError(f'"{text}" names no table')
    return MapSpec(kind, name, parts)
