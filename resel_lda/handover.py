"""What front process and worker say to each other over their socket pair (SOCK_SEQPACKET).

A packet is one kind octet, the length of the fields (4 octets, big-endian), the fields as a JSON
object, and raw octets. A session's packet also carries a descriptor (SCM_RIGHTS): the client's
socket itself, or one end of a stream that the front pumps. A delivery's carries the message, as a
file without a name: it holds the header block, an empty line and the body.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

# To the worker: the configuration; a session; a message to deliver; end a session. From it: ready;
# a session ended; what became of a message; a line to log.
CONFIGURE = b"C"
SESSION = b"S"
DELIVER = b"D"
KICK = b"K"
READY = b"R"
ENDED = b"E"
DELIVERED = b"O"
LOG = b"L"

# The largest packet; the socket's buffers are set to hold some of them.
MAX_PACKET = 96 * 1024
# Unread octets of a client that fit into a packet with everything else.
MAX_UNREAD = 64 * 1024
_BUFFER = 1024 * 1024
_HEAD = struct.Struct(">cI")


class HandoverError(Exception):
    """A packet that is not of this form."""


@dataclass(frozen=True, slots=True)
class Handover:
    """A logged-in session.

    session: its identifier in the log. user … quota_storage_size: as `users.User` has them.
    tag: of the log-in command, still to be answered. secured: TLS, or from this machine.
    agreed: what else the dialog before log-in settled. unread: what the client had already sent
    behind the log-in.
    """

    session: str
    service: str
    user: str
    uid: int | None
    gid: int | None
    home: str
    mail_location: str
    quota_storage_size: int | None
    tag: str
    secured: bool
    remote_address: str
    local_address: str
    agreed: Mapping[str, str] = field(default_factory=dict)
    unread: bytes = b""

    def pack(self) -> bytes:
        fields = asdict(self)
        del fields["unread"]
        return pack(SESSION, fields, self.unread)


def unpack_session(fields: Mapping[str, object], unread: bytes) -> Handover:
    """Raises HandoverError."""
    try:
        return Handover(**fields, unread=unread)  # type: ignore[arg-type]
    except TypeError as error:
        raise HandoverError(str(error)) from None


def pack(kind: bytes, fields: Mapping[str, object], octets: bytes = b"") -> bytes:
    text = json.dumps(fields, separators=(",", ":")).encode()
    return _HEAD.pack(kind, len(text)) + text + octets


def unpack(packet: bytes) -> tuple[bytes, dict[str, object], bytes]:
    """(kind, fields, octets). Raises HandoverError."""
    if len(packet) < _HEAD.size:
        raise HandoverError("short packet")
    kind, length = _HEAD.unpack_from(packet)
    end = _HEAD.size + length
    if end > len(packet):
        raise HandoverError("short packet")
    try:
        fields = json.loads(packet[_HEAD.size : end])
    except ValueError:
        raise HandoverError("fields are not JSON") from None
    if not isinstance(fields, dict):
        raise HandoverError("fields are no object")
    return kind, fields, packet[end:]


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """(front's end, worker's end). Only the front's end does not block yet."""
    front, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (front, worker):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    front.setblocking(False)
    return front, worker


def receive(control: socket.socket) -> tuple[bytes, int | None] | None:
    """(packet, descriptor), or None at the end, which the other side's death is too. Raises
    BlockingIOError when there is none yet."""
    try:
        packet, ancillary, _, _ = control.recvmsg(MAX_PACKET, socket.CMSG_SPACE(4))
    except BlockingIOError:
        raise
    except OSError:
        return None
    descriptor: int | None = None
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptor = struct.unpack("i", data[:4])[0]
    if not packet and descriptor is None:
        return None
    return packet, descriptor


def send(control: socket.socket, packet: bytes, descriptor: int | None = None) -> None:
    """Raises BlockingIOError when the other side is slow, OSError when it is gone."""
    if descriptor is None:
        control.send(packet)
        return
    rights = struct.pack("i", descriptor)
    control.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
