"""What a helper is asked to do, and what it answers.

A helper (see `helper`) runs as one account. It gets errands as JSON objects in packets of its
control socket, with descriptors (SCM_RIGHTS): one end of a stream socket for the answer, and,
where there is a message, the message as `parcel` makes it. The answer is one JSON object, and the
end of the stream; a stream that ends without one means that the helper died.
"""

from __future__ import annotations

import array
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resel_lda.job import Job
from resel_mta.config.expand import expand
from resel_mta.users import User

#: The largest packet, and the largest answer (an included file's addresses), in octets.
MAX_PACKET = 96 * 1024
MAX_ANSWER = 32 * 1024 * 1024
_MAX_DESCRIPTORS = 2

#: Kinds of errands: `Errand.do`.
DELIVER, MAILBOX, SPOOL, COMMAND, FILE, INCLUDE = (
    "deliver",
    "mailbox",
    "spool",
    "command",
    "file",
    "include",
)


class ErrandError(Exception):
    """A packet or an answer that is not of this form."""


@dataclass(frozen=True, slots=True)
class Errand:
    """do: DELIVER to a user (.forward, then his mailbox), MAILBOX (his mailbox only), SPOOL (his
    mbox in mail_spool_directory), COMMAND, FILE (a target), INCLUDE (the targets in a file).

    argument: the command line or the path. alias: the alias that names it (or the file in which it
    stands). job: whose mail it is, and the addresses; its user is
    the account on whose behalf it is done. is_user: whether that is the recipient himself, and not
    the owner of an alias file. source: where the target stands: "alias", "forward", or the path
    of an included file. local, delimiter, extension: parts of the recipient's local part.
    header: octets of the message's header block.
    """

    do: str
    job: Job
    argument: str = ""
    alias: str = ""
    is_user: bool = True
    source: str = "alias"
    local: str = ""
    delimiter: str = ""
    extension: str = ""
    header: int = 0

    def pack(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()


def unpack(packet: bytes) -> Errand:
    """Raises ErrandError."""
    try:
        return errand_of(json.loads(packet))
    except ValueError as error:
        raise ErrandError(f"not an errand: {error}") from None


def errand_of(fields: Mapping[str, Any]) -> Errand:
    """Raises ErrandError."""
    try:
        job = dict(fields["job"])
        job["user"] = User(**job["user"])
        return Errand(**{**fields, "job": Job(**job)})
    except (KeyError, TypeError) as error:
        raise ErrandError(f"not an errand: {error}") from None


def send(control: socket.socket, packet: bytes, descriptors: Sequence[int] = ()) -> None:
    """Raises BlockingIOError when the other side is slow, OSError when it is gone."""
    rights = array.array("i", descriptors)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
    control.sendmsg([packet], ancillary)


def receive(control: socket.socket, size: int = MAX_PACKET) -> tuple[bytes, list[int]]:
    """(packet, descriptors); b"" at the end. Raises OSError."""
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * 4)
    packet, ancillary, _, _ = control.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return packet, list(descriptors)


def expand_template(template: str, errand: Errand, shell: str) -> str:
    """A template parameter (forward_path, command_execution_directory) for this recipient."""
    local, domain = errand.job.address.rpartition("@")[::2]
    values = {
        "home": errand.job.user.home,
        "user": errand.local,
        "local": local or domain,
        "domain": domain if local else "",
        "extension": errand.extension,
        "recipient": errand.job.address,
        "recipient_delimiter": errand.delimiter if errand.extension else "",
        "shell": shell,
    }
    # A stranger chose these: they name no folder.
    safe = {
        name: value if name in ("home", "shell") else value.replace("/", "_").replace("\0", "_")
        for name, value in values.items()
    }
    return expand(template, safe.get)
