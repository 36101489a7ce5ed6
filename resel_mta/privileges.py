"""Give up root: which account the network processes become, and what it must own."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from resel_mta.config import Settings
from resel_mta.disk import Disk


class PrivilegeError(Exception):
    """The account or a folder is not as it must be; the text names the cure."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account network processes run as."""

    name: str
    uid: int
    gid: int


def current_account() -> Account:
    """The account this process runs as already."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return Account(name, uid, os.getgid())


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


def prepare_directories(settings: Settings, account: Account, disk: Disk) -> None:
    """queue_directory and data_directory exist, belong to the account, and are closed to others.

    Raises PrivilegeError.
    """
    for parameter in ("queue_directory", "data_directory"):
        path = Path(settings.text(parameter))
        try:
            if not path.is_dir():
                disk.make_directories(path, 0o755 if parameter == "queue_directory" else 0o700)
                if os.getuid() == 0:
                    os.chown(path, account.uid, account.gid)
            if os.stat(path).st_uid != account.uid:
                raise PrivilegeError(
                    f"{parameter} = {path}: belongs to uid {os.stat(path).st_uid}, but the daemon runs as "
                    f"{account.name}; 'chown -R {account.name} {path}' or name another folder"
                )
        except OSError as error:
            raise PrivilegeError(f"{parameter} = {path}: {error.strerror}") from error


def drop(account: Account) -> None:
    """Become the account, for good."""
    os.setgroups([account.gid])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    os.environ["HOME"] = "/nonexistent"
