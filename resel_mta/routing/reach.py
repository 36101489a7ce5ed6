"""What an account may do with a file, by the permission bits on the way to it: what can be told
without being that account. Access control lists are not looked at."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

READ, WRITE, EXECUTE = 4, 2, 1


@dataclass(frozen=True, slots=True)
class Reach:
    """Of one account. groups: all that it is in."""

    name: str
    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, account: pwd.struct_passwd) -> Reach:
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        return cls(account.pw_name, account.pw_uid, frozenset(groups))

    def may(self, path: str, wanted: int) -> bool:
        """Whether it may READ, WRITE or EXECUTE what is there. Raises OSError where that is not
        there, or is not to be seen by us."""
        real = Path(os.path.realpath(path, strict=True))
        return self._allows(real, wanted) and all(
            self._allows(folder, EXECUTE) for folder in real.parents
        )

    def _allows(self, path: Path, wanted: int) -> bool:
        status = path.stat()
        shift = 6 if self.uid == status.st_uid else 3 if status.st_gid in self.groups else 0
        return stat.S_IMODE(status.st_mode) >> shift & wanted == wanted
