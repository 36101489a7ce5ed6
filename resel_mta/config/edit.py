"""Changing main.cf without losing its comments and layout (``resel-conf -e``)."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from resel_mta.config.grammar import parse_main_cf
from resel_mta.disk import Disk


def edited(text: str, values: Mapping[str, str]) -> str:
    """The text of a main.cf with these parameters set: in their place where they are set already
    (every time, if several times), else at the end. Comments within an old value stay."""
    lines = text.split("\n")
    assignments, _ = parse_main_cf(text, "")
    done = set()
    for each in reversed(assignments):
        if each.name not in values:
            continue
        done.add(each.name)
        kept = [
            line
            for line in lines[each.first : each.last]
            if not line.strip() or line.lstrip().startswith("#")
        ]
        lines[each.first - 1 : each.last] = [_line(each.name, values[each.name]), *kept]
    added = [_line(name, value) for name, value in values.items() if name not in done]
    if added:
        if lines and not lines[-1]:
            lines.pop()
        lines += [*added, ""]
    return "\n".join(lines)


def _line(name: str, value: str) -> str:
    return f"{name} = {value}".rstrip()


def edit_file(path: Path, values: Mapping[str, str], disk: Disk) -> None:
    """Apply `edited` to a file: atomic, synced, owner and mode kept. Raises OSError."""
    path = path.resolve()
    before = path.stat()
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    data = edited(text, values).encode("utf-8", "surrogateescape")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    disk.write_file(temporary, [data], stat.S_IMODE(before.st_mode))
    try:
        # The umask may have taken bits off; and another's file must stay theirs.
        os.chmod(temporary, stat.S_IMODE(before.st_mode))
        if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(temporary, before.st_uid, before.st_gid)
        disk.rename(temporary, path)
    except BaseException:
        disk.unlink(temporary)
        raise
    disk.sync_directory(path.parent)
