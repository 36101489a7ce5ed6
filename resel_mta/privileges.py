"""Give up root: which account the network processes become, and what it must own."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog.sinks import open_to_append

#: In queue_directory: where programs of the machine hand in mail (see `pickup`), and their modes.
PUBLIC_FOLDERS = MappingProxyType({"public": 0o755, "drop": 0o1777})


class PrivilegeError(Exception):
    """The account or a folder is not as it must be; the text names the cure."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account network processes run as."""

    name: str
    uid: int
    gid: int


def account_name(uid: int) -> str:
    """What an account is called; its number where it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def current_account() -> Account:
    """The account this process runs as already."""
    return Account(account_name(os.getuid()), os.getuid(), os.getgid())


def mail_owner(settings: Settings) -> Account:
    """The account that `mail_owner` names. Raises PrivilegeError if missing or privileged."""
    name = settings.text("mail_owner")
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise PrivilegeError(
            f"mail_owner = {name}: no such account; create it with "
            f"'adduser --system --group --no-create-home --home /nonexistent {name}', "
            "or name another with mail_owner"
        ) from None
    if entry.pw_uid == 0:
        raise PrivilegeError(f"mail_owner = {name}: must not be root; name an account of its own")
    return Account(name, entry.pw_uid, entry.pw_gid)


def mailbox_account(settings: Settings, owner: Account) -> Account:
    """The account that mailboxes belong to: `mail_uid` and `mail_gid`, names or numbers; the
    mail owner's where they are not set. Raises PrivilegeError if missing or root."""
    user, group = settings.text("mail_uid"), settings.text("mail_gid")
    if not user:
        return owner
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        name, uid, gid = entry.pw_name, entry.pw_uid, entry.pw_gid
    except KeyError:
        if not user.isdigit():
            raise PrivilegeError(
                f"mail_uid = {user}: no such account; create it with "
                f"'adduser --system --group --no-create-home --home /var/mail {user}', "
                "or name another with mail_uid"
            ) from None
        name, uid, gid = user, int(user), int(user)
    if group:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise PrivilegeError(f"mail_gid = {group}: no such group") from None
    if uid == 0 or gid == 0:
        raise PrivilegeError("mail_uid and mail_gid must not be root's")
    return Account(name, uid, gid)


def prepare_directories(settings: Settings, account: Account, disk: Disk) -> None:
    """queue_directory and data_directory exist, belong to the account, and are closed to others;
    in queue_directory are the folders that all users of the machine may reach.

    Raises PrivilegeError.
    """
    for parameter in ("queue_directory", "data_directory"):
        path = Path(settings.text(parameter))
        try:
            if not path.is_dir():
                disk.make_directories(path, 0o755 if parameter == "queue_directory" else 0o700)
            if os.getuid() == 0 and os.stat(path).st_uid == 0:
                os.chown(path, account.uid, account.gid)
            if (uid := os.stat(path).st_uid) != account.uid:
                cure = (
                    f"'chown -R {account.name} {path}'" if os.getuid() == 0 else "start it as root,"
                )
                raise PrivilegeError(
                    f"{parameter} = {path}: belongs to {account_name(uid)}, but the daemon runs as "
                    f"{account.name}; {cure} or name another folder"
                )
            if parameter == "queue_directory":
                for name, mode in PUBLIC_FOLDERS.items():
                    _prepare_public(path, name, mode, account)
        except OSError as error:
            where = f"{parameter} = {error.filename or path}"
            raise PrivilegeError(f"{where}: {error.strerror}") from error


def prepare_log(settings: Settings, account: Account) -> None:
    """As root: the account may write `maillog_file`. One that is not there yet, or is root's (what
    rotation left), becomes its own.

    Whoever has taken over the account could put a link in its place: it is never followed. Raises
    PrivilegeError.
    """
    path = settings.text("maillog_file")
    if path in ("", "/dev/stdout") or os.path.islink(path) or _is_special(path):
        return
    try:
        file = open_to_append(path, os.O_NOFOLLOW)
    except OSError as error:
        raise PrivilegeError(f"maillog_file = {path}: {error.strerror}") from error
    try:
        found = os.fstat(file)
        if found.st_uid == 0 and found.st_nlink == 1:
            is_new = not found.st_size and found.st_gid == 0
            os.fchown(file, account.uid, account.gid if is_new else -1)
        elif not _may_write(found, account):
            raise PrivilegeError(
                f"maillog_file = {path}: belongs to {account_name(found.st_uid)}, and the daemon "
                f"runs as {account.name}; 'chown {account.name} {path}' or name another file"
            )
    finally:
        os.close(file)


def _is_special(path: str) -> bool:
    """Whether something is there that is not a file, such as syslog's socket."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _may_write(found: os.stat_result, account: Account) -> bool:
    if found.st_uid == account.uid:
        return bool(found.st_mode & stat.S_IWUSR)
    if found.st_gid == account.gid:
        return bool(found.st_mode & stat.S_IWGRP)
    return bool(found.st_mode & stat.S_IWOTH)


def _prepare_public(queue: Path, name: str, mode: int, account: Account) -> None:
    """A folder of queue_directory with this very mode, whatever the umask.

    Whoever has taken over the account could put a link in its place: what root changes is the
    folder itself, by descriptor. Raises PrivilegeError, OSError.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(queue / name, 0o700)
    folder = os.open(queue / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        owner = os.fstat(folder).st_uid
        if owner not in (account.uid, 0):
            raise PrivilegeError(
                f"{queue / name}: belongs to uid {owner}, but the daemon runs as {account.name}; "
                f"'chown {account.name} {queue / name}'"
            )
        if owner != account.uid:
            os.fchown(folder, account.uid, account.gid)
        os.fchmod(folder, mode)
    finally:
        os.close(folder)
