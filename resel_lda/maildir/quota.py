"""`maildirsize` of Maildir++: kept in step where another program has made one."""

from __future__ import annotations

import os

from resel_lda.maildir.names import size_in_name
from resel_mta.disk import Disk


def add_to_maildirsize(disk: Disk, root: str, base: str, count: int) -> None:
    """Note one message more (count 1) or less (-1). Nothing happens if there is no such file, or
    if it cannot be written: it is an estimate that its readers compute again."""
    size = size_in_name(base, "S")
    if size is None:
        return
    try:
        fd = os.open(
            os.path.join(root, "maildirsize"),
            os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW,
        )
    except OSError:
        return
    try:
        disk.write(fd, b"%d %d\n" % (size * count, count))
    except OSError:
        return
    finally:
        disk.close(fd)
