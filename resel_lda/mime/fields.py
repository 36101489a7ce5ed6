"""Fields of a header block (RFC 5322 §2.2), without looking at all of its lines. Never fails."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

Field = tuple[bytes, bytes]
"""(lower-case name, value)"""


def named(names: Iterable[bytes]) -> re.Pattern[bytes]:
    """What `unfolded_fields` finds the fields with these names by. It looks at no octet more than a
    few times, whatever there is: what has matched is never given back."""
    words = b"|".join(_alternatives(sorted(names)))
    # The value of a field of one line, else all of its lines.
    value = rb"[ \t]*+([^\r\n]++)\r?+(?=\n(?![ \t])|\Z)|([^\n]*+(?:\n[ \t][^\n]*+)*+)"
    return re.compile(rb"\n(" + words + rb")[ \t]*+:(?:" + value + rb")", re.IGNORECASE)


def _alternatives(names: Sequence[bytes]) -> Iterator[bytes]:
    """Where many begin with the same word, that is looked for once."""
    for start, group in groupby(names, lambda name: name.partition(b"-")[0]):
        ends = [re.escape(name[len(start) :]) for name in group]
        yield re.escape(start) + b"(?:" + b"|".join(ends) + b")"


def unfolded_fields(header: bytes, wanted: re.Pattern[bytes], folded: bytes = b"") -> list[Field]:
    """(lower-case name, unfolded value), in order, of the fields that `wanted` (see `named`) finds.
    A bare LF ends a line too. folded: the name of one whose line ends stay, as LF."""
    return [
        (name.lower(), value or _unfolded(lines, b"\n" if name.lower() == folded else b""))
        for name, value, lines in wanted.findall(b"\n" + header)
    ]


def _unfolded(value: bytes, joint: bytes) -> bytes:
    """Without the white space after the colon (one octet of it, where nothing follows)."""
    first, *more = [line[:-1] if line.endswith(b"\r") else line for line in value.split(b"\n")]
    return joint.join([first.lstrip(b" \t") or first[1:], *more])
