"""Users of the machine: passwd(5) through the name service switch. It checks no passwords."""

from __future__ import annotations

import asyncio
import pwd

from resel_mta.mail import Reply, TempFail
from resel_mta.users.user import User


def _user(entry: pwd.struct_passwd) -> User:
    return User(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid, home=entry.pw_dir)


class SystemUsers:
    """Looked up in a thread: NSS may ask a directory server."""

    async def find(self, name: str) -> User | None:
        """Raises TempFail when the name service fails."""
        if not name or "\0" in name or "@" in name:
            return None
        try:
            return _user(await asyncio.to_thread(pwd.getpwnam, name))
        except KeyError:
            return None
        except (OSError, ValueError) as error:
            raise TempFail(Reply(451, "4.3.0", "Temporary user lookup failure")) from error

    async def names(self) -> list[str]:
        """All that the name service lists."""
        entries = await asyncio.to_thread(pwd.getpwall)
        return [entry.pw_name for entry in entries]
