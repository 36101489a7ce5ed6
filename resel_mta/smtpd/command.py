"""What an SMTP command is to a session."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

#: What a command still has to wait for; None if it is done.
Work = Coroutine[Any, Any, None] | None


class Closing(Exception):
    """The session is over; what was to be said has been said."""


class Command(NamedTuple):
    """One SMTP command.

    run: called with the session and the argument (b"" for none); it answers through `say`.
    name: in the log. junk: it costs a client nothing, and is counted as an error when there are
    too many. last: a client must wait for its reply (RFC 2920 §3.1).
    """

    run: Callable[[Any, bytes], Work]
    name: str
    junk: bool = False
    last: bool = False


Commands = Mapping[bytes, Command]


def command_table(*commands: Command) -> Commands:
    """By verb."""
    return MappingProxyType({command.name.encode(): command for command in commands})
