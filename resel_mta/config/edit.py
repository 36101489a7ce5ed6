"""Changing main.cf without losing its comments and layout, as ``postconf -e``, ``-#`` and ``-X`` do."""

from __future__ import annotations

import fcntl
import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from resel_mta.config.grammar import parse_main_cf
from resel_mta.disk import Disk


def edited(text: str, values: Mapping[str, str]) -> str:
    """The text of a main.cf with these parameters set: in their place where they are set already
    (every time, if several times), else at the end. Comments within an old value stay."""

    def replace(name: str, lines: list[str]) -> list[str]:
        return [_line(name, values[name]), *filter(_is_comment, lines)]

    text, done = _changed(text, values, replace)
    lines = text.split("\n")
    added = [_line(name, value) for name, value in values.items() if name not in done]
    if added:
        if lines and not lines[-1]:
            lines.pop()
        lines += [*added, ""]
    return "\n".join(lines)


def commented_out(text: str, names: Collection[str]) -> str:
    """The text with these parameters' lines as comments, so that the defaults count."""

    def comment(name: str, lines: list[str]) -> list[str]:
        return [line if _is_comment(line) else f"#{line}" for line in lines]

    return _changed(text, names, comment)[0]


def removed(text: str, names: Collection[str]) -> str:
    """The text without these parameters; comments within their values stay."""

    def remove(name: str, lines: list[str]) -> list[str]:
        return [line for line in lines if _is_comment(line)]

    return _changed(text, names, remove)[0]


def repeated(text: str, names: Collection[str]) -> list[str]:
    """Which of these parameters the text sets more than once."""
    assignments, _ = parse_main_cf(text, "")
    counts = Counter(each.name for each in assignments)
    return [name for name in names if counts[name] > 1]


def _changed(
    text: str, names: Collection[str], change: Callable[[str, list[str]], list[str]]
) -> tuple[str, set[str]]:
    """`change` applied to the physical lines of each assignment of these names; the names found."""
    lines = text.split("\n")
    found = set()
    for each in reversed(parse_main_cf(text, "")[0]):
        if each.name in names:
            found.add(each.name)
            lines[each.first - 1 : each.last] = change(each.name, lines[each.first - 1 : each.last])
    return "\n".join(lines), found


def _is_comment(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _line(name: str, value: str) -> str:
    return f"{name} = {value}"


def read_text(path: Path) -> str:
    """A configuration file as text whose bytes survive `write_text`. Raises OSError."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def write_text(path: Path, text: str, disk: Disk, mode: int = 0o644) -> None:
    """Replace a file, or the one that a link names: atomic, synced, its owner and mode kept.

    mode: of a new file. Raises OSError.
    """
    path = path.resolve()
    try:
        before = path.stat()
        mode = stat.S_IMODE(before.st_mode)
        owner = before.st_uid, before.st_gid
    except FileNotFoundError:
        owner = os.geteuid(), os.getegid()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    disk.write_file(temporary, [text.encode("utf-8", "surrogateescape")], mode)
    try:
        # The umask may have taken bits off; and another's file must stay theirs.
        os.chmod(temporary, mode)
        if owner != (os.geteuid(), os.getegid()):
            os.chown(temporary, *owner)
        disk.rename(temporary, path)
    except BaseException:
        disk.unlink(temporary)
        raise
    disk.sync_directory(path.parent)


@contextmanager
def sole_editor(path: Path) -> Iterator[None]:
    """Two commands that change the same file do it one after the other. Raises OSError."""
    folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
