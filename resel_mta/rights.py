"""Whose rights an errand is done with: the supervisor's decision, from what root itself reads.

The rule is local(8)'s: the recipient's, else those of the owner of the alias file or of the
included file that names the command, else `default_privs`; never root's, and never those of the
account that the network process runs as. Nothing that the network process says is believed: a
command must stand in an alias file, and who a user is stands in the userdb.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass, replace

from resel_lda import errand as errands
from resel_lda.errand import Errand
from resel_mta.config import Settings
from resel_mta.config.aliases import read_targets
from resel_mta.config.mapspec import DATABASE_TYPES, FILE_TYPES, MapSpec, parse_map
from resel_mta.config.tables import Table, memory_table, parse_table
from resel_mta.privileges import Account, PrivilegeError, mailbox_account
from resel_mta.users import User
from resel_mta.users.accounts import Accounts


def has_helper(user: User, settings: Settings, worker: Account) -> bool:
    """Whether this user's mailbox is a helper's business, where there is a supervisor: that of all
    with a uid of their own. The mailbox worker does the others.

    worker: its account. Mail for that account itself is brought before the supervisor too, which
    refuses it, except where `mail_location` says where the worker is to put it: what the worker
    may not write, such as an mbox in the spool, would wait with no word of what to do about it.
    """
    if user.uid is None or user.uid != worker.uid:
        return user.uid is not None
    placed = user.mail_location or settings.text("mail_location")
    return user.name == worker.name and not placed


class Refused(Exception):
    """It is not done. enhanced: the status for the mail that it was about."""

    def __init__(self, text: str, enhanced: str = "4.3.5") -> None:
        super().__init__(text)
        self.enhanced = enhanced


@dataclass(frozen=True, slots=True)
class Identity:
    """What a helper runs as."""

    uid: int
    gid: int


@dataclass(slots=True)
class _Source:
    """A table as read. owner: of its file; root where it stands in main.cf."""

    stamp: tuple[int, int, int] | None
    table: Table
    owner: int
    is_open: bool = False


class Rights:
    """Decides for one configuration. owner: the account of the network process. Blocks."""

    def __init__(self, settings: Settings, owner: Account) -> None:
        self._settings = settings
        self._owner = owner
        try:
            self._worker = mailbox_account(settings, owner)
        except PrivilegeError:
            # There are no mailboxes then.
            self._worker = owner
        self._accounts = Accounts(settings)
        self._specs = [parse_map(item) for item in settings.items("alias_maps")]
        self._sources: dict[MapSpec, _Source] = {}

    def grant(self, errand: Errand) -> tuple[Errand, Identity]:
        """The errand as it may be done, and as whom. Raises Refused."""
        of_user = errand.do in (errands.DELIVER, errands.MAILBOX, errands.SPOOL)
        of_target = errand.do in (errands.COMMAND, errands.FILE)
        if of_user or (of_target and errand.source == "forward"):
            user = self._user(errand.job.user.name)
            self._check_mailbox_account(user)
            return _with(errand, user, is_user=True), self._identity(errand, user)
        if of_target or errand.do == errands.INCLUDE:
            user = self._account(self._alias_owner(errand))
            return _with(errand, user, is_user=False), self._identity(errand, user)
        raise Refused(f"unknown errand {errand.do[:20]!r}")

    def worker_of(self, name: str) -> Identity:
        """What the worker for this user's IMAP sessions runs as. Raises Refused."""
        user = self._user(name)
        return self._checked(user, user.gid)

    def _user(self, name: str) -> User:
        try:
            user = self._accounts.find(name)
        except OSError as error:
            raise Refused(f"userdb: {error.filename}: {error.strerror}", "4.3.0") from error
        if user is None or user.uid is None:
            raise Refused(f"user {name[:64]!r} has no uid of his own")
        if user.uid == 0:
            raise Refused(f"mail for {name} is not delivered as root: give it an alias")
        return user

    def _alias_owner(self, errand: Errand) -> int:
        """The uid whose file names the target. Raises Refused."""
        wanted = errand.argument
        if errand.do == errands.COMMAND:
            wanted = f"|{wanted}"
        if errand.do == errands.INCLUDE:
            wanted = f":include:{wanted}"
        elif errand.source != "alias":
            # The helper itself sees whether the included file names the target.
            wanted = f":include:{errand.source}"
        for spec in self._specs:
            source = self._source(spec)
            try:
                value = source.table.get(errand.alias)
                targets = read_targets(value) if value is not None else []
            except (LookupError, ValueError, OSError) as error:
                raise Refused(f"{spec}: {error}") from error
            if value is None:
                continue
            if all(target.text != wanted for target in targets):
                raise Refused(
                    f"{wanted} is not named by {errand.alias} in {spec}: after an edit, newaliases "
                    "makes a table live"
                )
            if source.is_open:
                raise Refused(f"anyone may write to {spec.name}: it names no commands and files")
            if errand.do == errands.INCLUDE:
                # Root's alias file may name a list that only its owner can read.
                return source.owner or _file_owner(errand.argument, is_asked=True)
            return source.owner if errand.source == "alias" else _file_owner(errand.source)
        raise Refused(f"there is no alias {errand.alias} any more")

    def _source(self, spec: MapSpec) -> _Source:
        """Raises Refused."""
        known = self._sources.get(spec)
        if spec.type not in FILE_TYPES:
            if known is None:
                try:
                    known = _Source(None, memory_table(spec, []), 0)
                except ValueError as error:
                    raise Refused(f"{spec}: {error}") from error
                self._sources[spec] = known
            return known
        try:
            with open(spec.name, encoding="utf-8", errors="surrogateescape") as file:
                status = os.fstat(file.fileno())
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                if known is not None and known.stamp == stamp:
                    return known
                text = file.read()
        except OSError as error:
            raise Refused(f"{spec}: {error.strerror}") from error
        # Good lines count, whatever is wrong with others: they are only looked up here.
        is_aliases = spec.type in DATABASE_TYPES or spec.type == "texthash"
        table, _ = parse_table(spec, text, spec.name, aliases=is_aliases)
        is_open = bool(status.st_mode & stat.S_IWOTH)
        known = self._sources[spec] = _Source(stamp, table, status.st_uid, is_open)
        return known

    def _account(self, uid: int) -> User:
        """Raises Refused."""
        if uid != 0:
            try:
                entry = pwd.getpwuid(uid)
            except KeyError:
                raise Refused(f"the alias file belongs to uid {uid}, which is no account") from None
            return User(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)
        name = self._settings.text("default_privs")
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise Refused(f"default_privs = {name}: no such account") from None
        return User(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)

    def _identity(self, errand: Errand, user: User) -> Identity:
        """Raises Refused."""
        gid = user.gid
        if errand.do == errands.SPOOL:
            gid = self._spool_group(gid)
        return self._checked(user, gid)

    def _check_mailbox_account(self, user: User) -> None:
        """Raises Refused."""
        if user.uid == self._worker.uid != self._owner.uid:
            raise Refused(
                f"{user.name} is the account that mailboxes belong to: its mail needs an alias"
            )

    def refusal(self, name: str) -> str:
        """Why nothing is delivered to a user with rights of his own; "" if that is not so."""
        try:
            user = self._user(name)
            self._check_mailbox_account(user)
            self._checked(user, user.gid)
        except Refused as refused:
            return str(refused)
        return ""

    def _checked(self, user: User, gid: int | None) -> Identity:
        """Raises Refused."""
        if not user.uid or not gid:
            raise Refused(f"nothing is done for {user.name} with the rights of root")
        if user.uid == self._owner.uid:
            raise Refused(
                f"{user.name} is the account that the mail system runs as: its mail needs an alias, "
                "and default_privs another account"
            )
        return Identity(user.uid, gid)

    def _spool_group(self, gid: int | None) -> int | None:
        """Lock files and new mailboxes need the spool's group, where not everyone may write. As it
        is the real group, the user's own programs cannot look into such a helper (ptrace(2))."""
        try:
            status = os.stat(self._settings.text("mail_spool_directory"))
        except OSError:
            return gid
        if status.st_mode & stat.S_IWOTH or not status.st_mode & stat.S_IWGRP:
            return gid
        return status.st_gid or gid


def _with(errand: Errand, user: User, *, is_user: bool) -> Errand:
    return replace(errand, is_user=is_user, job=replace(errand.job, user=user))


def _file_owner(path: str, *, is_asked: bool = False) -> int:
    """Raises Refused."""
    try:
        return os.stat(path, follow_symlinks=False).st_uid
    except OSError as error:
        reason = error.strerror or str(error)
        # Who asks for the file itself knows which one it was.
        raise Refused(reason if is_asked else f":include: file {path}: {reason}") from error
