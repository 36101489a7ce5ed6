"""As which daemon `resel-mta explain` decides: with whose rights mail is delivered depends on who
started it, and not on who asks."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from resel_mta.config import Settings
from resel_mta.config.live import live_files
from resel_mta.control import Row
from resel_mta.privileges import (
    Account,
    PrivilegeError,
    account_name,
    current_account,
    mail_owner,
    mailbox_account,
)
from resel_mta.rights import has_helper
from resel_mta.users import User


@dataclass(slots=True)
class Judge:
    """A daemon. supervised: root started it. owner, worker: whom the network process and the mailbox
    worker run as. unread: files that it reads and whoever asks may not. by_sources: nor the tables
    that are live, so that their sources were read."""

    supervised: bool
    owner: Account
    worker: Account
    unread: set[str] = field(default_factory=set)
    by_sources: bool = False

    def has_helper(self, user: User, settings: Settings) -> bool:
        """Whether it delivers to the user's mailbox with his own rights."""
        if self.supervised:
            return has_helper(user, settings, self.worker)
        return user.uid == self.owner.uid

    def look_at(self, path: str) -> None:
        """A file that has a say."""
        if _is_kept_from(path):
            self.unread.add(path)

    def look_at_tables(self, settings: Settings) -> None:
        """Those of the configuration: what is live, else their sources, and the userdb."""
        for _, file in live_files(settings):
            self.by_sources = self.by_sources or _is_kept_from(str(file.live.parent))
            self.look_at(str(file.source))
        for item in (settings.text("userdb") or settings.text("passdb")).replace(",", " ").split():
            kind, _, path = item.partition(":")
            if kind in ("passwd-file", "ldap"):
                self.look_at(path)


def _is_kept_from(path: str) -> bool:
    """Whether whoever asks may not read it."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def judge_of(settings: Settings, about: Row | None) -> Judge:
    """The daemon that runs, else the one that would. about: as of `mta_client.running`."""
    if about:
        if about["supervised"]:
            return _started_by_root(settings)
        return _started_by(Account(account_name(about["uid"]), about["uid"], about["gid"]))
    return (
        _started_by_root(settings) if would_be_roots(settings) else _started_by(current_account())
    )


def would_be_roots(settings: Settings) -> bool:
    """Whether a daemon that is not there would be started by root: who else cannot use a queue that
    is not his own."""
    if os.geteuid() == 0:
        return True
    try:
        return os.stat(settings.text("queue_directory")).st_uid != os.geteuid()
    except OSError:
        return False


def _started_by(account: Account) -> Judge:
    return Judge(False, account, account)


def _started_by_root(settings: Settings) -> Judge:
    try:
        owner = mail_owner(settings)
        return Judge(True, owner, mailbox_account(settings, owner))
    except PrivilegeError:
        # Not installed yet: the decision about the mail is the same.
        return Judge(True, current_account(), current_account())
