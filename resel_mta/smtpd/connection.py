"""The connection under a session: input as it comes, replies in one write, time-outs, TLS.

aiosmtpd's `SMTP` gives the protocol class and its connection set-up. Its command loop and its
reader are replaced, since they wait for the network twice per command and copy content line by
line. Here nothing waits: what came is handed to the conversation at once, from the event loop's
own call, and all replies to it leave in one write (RFC 2920). Only a command that has something
to wait for makes a task, and until that ends input is held back. Private methods of the base
that are overridden are pinned by a test.
"""

from __future__ import annotations

import abc
import asyncio
import ssl
from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import SMTP

from resel_mta.mail import Reply
from resel_mta.smtpd.access import AccessPolicy
from resel_mta.smtpd.client import Client, is_loopback, peer_address
from resel_mta.smtpd.transcript import Transcript

if TYPE_CHECKING:
    from resel_mta.smtpd.service import SmtpService

#: What `_next_line` gives for a line that is too long; no line can hold this.
LINE_TOO_LONG = b"\n"
#: Octets that may be held back before the client is made to wait.
HIGH_WATER = 256 * 1024
#: Seconds for a TLS connection's closing handshake.
_TLS_SHUTDOWN = 5.0


class Lost(Exception):
    """The client went away."""


class Connection(SMTP, abc.ABC):
    """One client's connection. `Session` adds the conversation.

    busy: something is awaited; input is held back until it is done.
    where: what the client did last, for the log. said: the last reply.
    finished: the conversation is over. strict_lines: a bare LF is refused.
    """

    busy = True
    finished = False
    strict_lines = False
    where = "CONNECT"
    said = b""

    def __init__(self, service: SmtpService, loop: asyncio.AbstractEventLoop) -> None:
        # The base's own __init__ looks up all its methods anew for each connection, which costs
        # more than a whole message; what is kept of the base needs only these.
        asyncio.StreamReaderProtocol.__init__(self, None, None, loop)  # type: ignore[arg-type]
        self.loop = loop
        self.service = service
        self.options = service.options
        self.transport: Any = None
        self._original_transport = None
        self._buffer = b""
        self._position = 0
        self._overlong = False
        self._held: list[bytes] = []
        self._held_size = 0
        self._reading_paused = False
        self._eof = False
        self._out: list[bytes] = []
        self._in_turn = False
        self._write_paused = False
        self._active = loop.time()
        self.transcript: Transcript | None = None
        self.client: Client
        self.access: AccessPolicy

    # -- the connection -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peername = transport.get_extra_info("peername")
        if peername is None:
            # It is gone already, but what it sent may still be there: nobody knows who it was, and
            # a connection without an address must not pass for one of this host.
            self.finished = True
            transport.abort()  # type: ignore[attr-defined]
            return
        address, port = peer_address(peername)
        own = (
            is_loopback(address) or address == peer_address(transport.get_extra_info("sockname"))[0]
        )
        trusted = self.options.mynetworks.matches(address)
        name = "unknown" if peername else "localhost"
        self.client = Client(name, address, port, own, trusted)
        self.transcript = self.service.postmaster.begin()
        self.access = AccessPolicy(self.options, self.service.recipients, self.client)
        if self.options.forbid_bare_newline:
            excluded = self.options.bare_newline_exclusions
            self.strict_lines = not excluded.matches(address, name)
        super().connection_made(transport)
        if self.options.implicit_tls:
            self._note_tls()
        self.service.opened(self)

    def _create_session(self) -> Any:
        return _Nothing()

    def _set_post_data_state(self) -> None:
        """The base calls this at connection time; the transaction is the sub-class's."""

    def eof_received(self) -> bool:
        self._eof = True
        if self.finished:
            return False
        if not self.busy:
            self.proceed()
        # A client that has said all may still read; TLS has no such half-open state.
        return not self.client.tls

    def connection_lost(self, error: Exception | None) -> None:
        # What is under way is not cancelled: it may be committing a message.
        super(SMTP, self).connection_lost(error)
        self.transport = None
        self._eof = True
        self._write_paused = False
        if self.finished:
            self._release()
        elif not self.busy:
            self.proceed()

    def _release(self) -> None:
        """Tell the service, once, when the connection is gone and nothing is under way any more."""
        if self.finished and self.transport is None and not self.busy:
            self.service.closed(self)

    # -- time-outs ----------------------------------------------------------------------------

    def _reset_timeout(self, duration: float | None = None) -> None:
        """There is no timer here: the service asks each connection (`check_time`)."""

    def _timeout_cb(self) -> None:
        """The base's timer is never set."""

    def check_time(self, now: float) -> None:
        """End it if the client has said nothing, or read nothing, for too long."""
        if now - self._active < self.options.timeout or self.transport is None:
            return
        if self._write_paused or self.finished:
            self.transport.abort()
        elif not self.busy:
            self.timed_out()

    # -- input --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._active = self.loop.time()
        if self.busy or self._write_paused or self.finished:
            self._hold(data)
            return
        if self._position < len(self._buffer):
            data = self._buffer[self._position :] + data
        self._buffer = data
        self._position = 0
        self.consume()

    def _hold(self, data: bytes) -> None:
        if self.finished:
            return
        self._held.append(data)
        self._held_size += len(data)
        if self._held_size > HIGH_WATER and not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def take_held(self) -> None:
        """Put what was held back behind what is unread of the buffer, which is little: it is copied
        each time."""
        self._held.insert(0, self._buffer[self._position :])
        self._buffer = b"".join(self._held)
        self._position = 0
        self._forget_held()

    def _forget_held(self) -> None:
        self._held.clear()
        self._held_size = 0
        if self._reading_paused:
            self._reading_paused = False
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()

    def take_block(self, most: int = -1) -> bytes:
        """All that is unread of the buffer, or as many octets of it as are wanted at most."""
        start = self._position
        end = len(self._buffer)
        if 0 <= most < end - start:
            end = start + most
            block = self._buffer[start:end]
            self._position = end
            return block
        block = self._buffer[start:] if start else self._buffer
        self._buffer = b""
        self._position = 0
        return block

    def unread(self, data: bytes) -> None:
        """Give back what followed a message."""
        self._buffer = data
        self._position = 0

    @property
    def has_input(self) -> bool:
        """Whether something is buffered that the client sent without waiting."""
        return self._position < len(self._buffer) or bool(self._held)

    def next_line(self, limit: int) -> bytes | None:
        """The next line without its end, None if there is none yet, LINE_TOO_LONG in place of one
        that is too long. A bare LF ends a line as CR LF does, unless it is refused: `refuse_line`
        may raise."""
        buffer, start = self._buffer, self._position
        end = buffer.find(b"\n", start)
        if end < 0:
            if len(buffer) - start > limit:
                self._overlong = True
                self._buffer = b""
                self._position = 0
            return None
        self._position = end + 1
        if self._overlong or end - start > limit:
            self._overlong = False
            return LINE_TOO_LONG
        line = buffer[start:end]
        if self.strict_lines and line[-1:] != b"\r":
            self.refuse_line()
        return line.rstrip(b"\r")

    # -- output -------------------------------------------------------------------------------

    def say(self, reply: bytes | Reply) -> None:
        """Add a reply to those that leave with the next write."""
        said = reply if isinstance(reply, bytes) else reply.wire()
        self.said = said
        self._out.append(said)
        if self.transcript is not None:
            self.transcript.said(said)

    async def push(self, status: bytes | Reply) -> None:  # type: ignore[override]
        """Send a reply now."""
        self.say(status)
        self.flush()

    def flush_soon(self) -> None:
        """Send what is to be said when the service sends (`send_soon`)."""
        if self._out and not self._in_turn:
            self._in_turn = True
            self.service.send_soon(self)

    @abc.abstractmethod
    def flush_in_turn(self) -> None:
        """The service sends. Raises nothing."""

    def flush(self) -> None:
        """Send what is to be said, now. Whether the client reads it shows in `_write_paused`."""
        out = self._out
        if not out:
            return
        said = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(said)

    def pause_writing(self) -> None:
        self._write_paused = True
        self._active = self.loop.time()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._active = self.loop.time()
        if not self.busy and not self.finished:
            self.proceed()

    # -- TLS and the log ------------------------------------------------------------------------

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """The server's half of a handshake. Raises Lost."""
        # Whatever came in the clear after STARTTLS was not said under TLS: it is dropped, not
        # carried over (command injection). What comes during the handshake was said under TLS: a
        # client may send its EHLO together with the handshake's last flight.
        self.unread(b"")
        self._forget_held()
        self.flush()
        if self.transport is None:
            raise Lost
        try:
            self.transport = await self.loop.start_tls(
                self.transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self.options.starttls_timeout,
                ssl_shutdown_timeout=_TLS_SHUTDOWN,
            )
        except (TimeoutError, OSError) as error:
            self.log(f"SSL_accept error from {self.client.label()}: {_reason(error)}")
            raise Lost from None
        self._note_tls()
        self.reset_state()

    def _note_tls(self) -> None:
        cipher = self.transport.get_extra_info("cipher") if self.transport is not None else None
        name, version, bits = cipher or ("unknown", "TLS", 0)
        self.client.tls = f"{version} with cipher {name} ({bits}/{bits} bits)"
        if self.options.tls_loglevel:
            self.log(
                f"Anonymous TLS connection established from {self.client.label()}: {self.client.tls}"
            )

    def reset_state(self) -> None:
        """Forget everything the client said in the clear (RFC 3207 §4.2)."""
        self.client.helo = ""
        self.client.esmtp = False
        self.client.sasl_method = self.client.sasl_username = ""

    def label(self) -> str:
        """The client, as the log names it."""
        return self.client.label(with_port=self.options.client_port_logging)

    def log(self, text: str, queue_id: str = "") -> None:
        self.service.log.event(self.service.log_name, text, queue_id, client_ip=self.client.address)

    # -- the conversation ---------------------------------------------------------------------

    @abc.abstractmethod
    def consume(self) -> None:
        """Take what is buffered, until it is used up or something must be waited for."""

    @abc.abstractmethod
    def proceed(self) -> None:
        """Go on with what was held back; at the end of input, end the session."""

    @abc.abstractmethod
    def refuse_line(self) -> None:
        """A line ended in a bare LF, and this client's may not."""

    @abc.abstractmethod
    def timed_out(self) -> None:
        """The client was silent for too long."""

    @abc.abstractmethod
    def begin_stop(self) -> None:
        """The service stops: end when nothing is under way."""

    @abc.abstractmethod
    def force_stop(self) -> None:
        """End now."""


class _Nothing:
    """Stands for the base's session record, whose place `Client` takes."""

    peer: object = None
    ssl: object = None


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", "") or "") or str(error) or type(error).__name__
