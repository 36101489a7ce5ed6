"""Files in which users and list owners say where mail goes: ``.forward`` and ``:include:``.

They are read with the rights of the calling process. Blocks.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable

from resel_mta.config.aliases import Target, TargetKind, read_targets
from resel_mta.mail import Reply, TempFail

#: Octets of a .forward file; more is no list of targets.
_MAX_FORWARD = 1 << 20
_MAX_INCLUDE = 16 << 20
#: Files that include files.
_MAX_INCLUDES = 20
# The user has no such file, or keeps it from himself.
_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM))

Found = list[tuple[Target, str]]
"""Targets, each with the file it stands in ("" for the one that was asked for)."""


def read_forward(paths: Iterable[str], warn: Callable[[str], None]) -> Found | None:
    """The targets in the first of the files that is there, None if there is none or it is empty.

    As with Postfix a file that is not a plain one, or that anyone may write to, does not count.
    Raises TempFail for one that cannot be understood: mail waits until it is mended.
    """
    for path in paths:
        try:
            text = _read(path, _MAX_FORWARD)
        except OSError as error:
            if error.errno in _ABSENT:
                continue
            raise TempFail(Reply(451, "4.3.0", f"{path}: {error.strerror}")) from error
        except ValueError as error:
            warn(f"{path}: {error}; it is ignored")
            continue
        return _collect(text, path, "", 0) or None
    return None


def read_include(path: str) -> Found:
    """The targets in an included file and in those that it includes. Raises TempFail."""
    try:
        text = read_include_text(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TempFail(Reply(451, "4.3.5", f":include: file {path}: {reason}")) from error
    return _collect(text, path, path, 1)


def read_include_text(path: str) -> str:
    """An included file as it stands. Raises OSError, ValueError that says what is wrong with it."""
    return _read(path, _MAX_INCLUDE)


def _read(path: str, limit: int) -> str:
    """Raises OSError, ValueError that says what is wrong with the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("is a symbolic link") from None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("is not a regular file")
        if mode & stat.S_IWOTH:
            raise ValueError("anyone may write to it")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise ValueError(f"is larger than {limit} octets")
    return data.decode("utf-8", "surrogateescape")


def _collect(text: str, path: str, stands_in: str, depth: int) -> Found:
    try:
        targets = read_targets(text)
    except ValueError as error:
        raise TempFail(Reply(451, "4.3.5", f"{path}: {error}")) from error
    found: Found = []
    for target in targets:
        if target.kind is not TargetKind.INCLUDE:
            found.append((target, stands_in))
            continue
        if depth >= _MAX_INCLUDES:
            text = f":include: nested too deeply at {target.value}"
            raise TempFail(Reply(451, "4.3.5", text))
        try:
            included = _read(target.value, _MAX_INCLUDE)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            text = f":include: file {target.value}: {reason}"
            raise TempFail(Reply(451, "4.3.5", text)) from error
        found += _collect(included, target.value, target.value, depth + 1)
    return found
