"""What the commands of an administrator share while they work on one user's store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from resel_lda.imap.names import Names
from resel_lda.mailbox import MailboxError
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.users import User

# sysexits(3), and doveadm's own for what is not there.
EX_USAGE, EX_DATAERR, EX_NOTFOUND, EX_CANTCREAT, EX_TEMPFAIL, EX_NOPERM = 64, 65, 68, 73, 75, 77

_EXIT_CODES: Mapping[str, int] = {
    "NONEXISTENT": EX_NOTFOUND,
    "TRYCREATE": EX_NOTFOUND,
    "ALREADYEXISTS": EX_DATAERR,
    "CANNOT": EX_DATAERR,
    "OVERQUOTA": EX_CANTCREAT,
    "NOPERM": EX_NOPERM,
}


def exit_code(error: MailboxError) -> int:
    """doveadm's exit code for a failure of the store."""
    return _EXIT_CODES.get(error.code, EX_TEMPFAIL)


class Tell(Protocol):
    """Takes what the asker sees: one row of values, one failure and its exit code, or a line to
    know."""

    async def row(self, values: Sequence[str]) -> None: ...

    async def problem(self, text: str, code: int) -> None: ...

    async def info(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Work:
    """args: of the command, as `commands` documents each. content: what was handed in with it,
    block by block. report: takes a line for the operator's log."""

    user: User
    store: MaildirStore
    settings: Settings
    names: Names
    args: Mapping[str, Any]
    tell: Tell
    content: Callable[[], AsyncIterator[bytes]]
    report: Callable[[str], None]

    def words(self, name: str) -> list[str]:
        return [str(word) for word in self.args.get(name, ())]

    def text(self, name: str) -> str:
        return str(self.args.get(name, ""))

    def on(self, name: str) -> bool:
        return bool(self.args.get(name))

    async def failed(self, doing: str, error: MailboxError, text: str = "") -> None:
        """``doing: text of the error`` as a problem."""
        await self.tell.problem(f"{doing}: {text or error.text}", exit_code(error))
