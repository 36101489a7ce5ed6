"""The connection under a session: input in blocks, replies in one write, time-outs, TLS.

aiosmtpd's `SMTP` gives the protocol class and its connection set-up. Its command loop and its
reader are replaced, since they wait for the network twice per command and copy content line by
line: here input is taken in blocks, all commands that a block holds are answered, and their
replies leave in one write (RFC 2920). Private methods of the base that are overridden are pinned
by a test.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import SMTP

from resel_mta.mail import Reply
from resel_mta.smtpd.access import AccessPolicy
from resel_mta.smtpd.client import Client, is_loopback, peer_address
from resel_mta.smtpd.input import Input

if TYPE_CHECKING:
    from resel_mta.smtpd.service import SmtpService

#: What `read_line` gives for a line that is too long; no line can hold this.
LINE_TOO_LONG = b"\n"
#: Seconds for a TLS connection's closing handshake.
_TLS_SHUTDOWN = 5.0


class Lost(Exception):
    """The client went away."""


class TimedOut(Exception):
    """The client said nothing for too long."""


class Closing(Exception):
    """The session is over; what was to be said has been said."""


class Connection(SMTP):
    """One client's connection. `Session` adds the conversation.

    where: what the client did last, for the log. finished: the conversation is over.
    said: the last reply.
    """

    where = "CONNECT"
    finished = False
    said = b""

    def __init__(self, service: SmtpService, loop: asyncio.AbstractEventLoop) -> None:
        # The base's own __init__ looks up all its methods anew for each connection, which costs
        # more than a whole message; what is kept of the base needs only these.
        asyncio.StreamReaderProtocol.__init__(
            self, asyncio.StreamReader(loop=loop), self._cb_client_connected, loop
        )
        self.loop = loop
        self.service = service
        self.options = service.options
        self.transport: Any = None
        self.input = Input(loop)
        self._original_transport = None
        self._timeout_handle: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        self._buffer = b""
        self._position = 0
        self._overlong = False
        self._out: list[bytes] = []
        self._waiting = False
        self._write_paused = False
        self._drained: asyncio.Future[None] | None = None
        self.client: Client
        self.access: AccessPolicy

    # -- the connection -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        address, port = peer_address(transport.get_extra_info("peername"))
        own = (
            is_loopback(address) or address == peer_address(transport.get_extra_info("sockname"))[0]
        )
        trusted = self.options.mynetworks.matches(address)
        name = "unknown" if transport.get_extra_info("peername") else "localhost"
        self.client = Client(name, address, port, own, trusted)
        self.access = AccessPolicy(self.options, self.service.router, self.client)
        self.input.attach(transport)  # type: ignore[arg-type]
        super().connection_made(transport)
        if self.options.implicit_tls:
            self._note_tls()
        self.service.opened(self)

    def data_received(self, data: bytes) -> None:
        self.input.feed(data)

    def eof_received(self) -> bool:
        self.input.feed_eof()
        # A client that has said all may still read; TLS has no such half-open state.
        return not self.client.tls

    def connection_lost(self, error: Exception | None) -> None:
        # The task is not cancelled: it may be committing a message. It sees the end of input.
        self._stop_timer()
        self.input.feed_eof()
        super(SMTP, self).connection_lost(error)
        self.transport = None
        self.resume_writing()
        self._release()

    def _release(self) -> None:
        """Tell the service, once, when the connection is gone and nothing is under way any more."""
        if self.finished and self.transport is None:
            self.service.closed(self)

    def _create_session(self) -> Any:
        return _Nothing()

    def _set_post_data_state(self) -> None:
        """The base calls this at connection time; the transaction is the sub-class's."""

    # -- time-outs ----------------------------------------------------------------------------

    def _reset_timeout(self, duration: float | None = None) -> None:
        """Start the timer. It is one for the whole session; `_deadline` moves."""
        if self._timeout_handle is None:
            self._timeout_handle = self.loop.call_later(
                duration or self.options.timeout, self._timeout_cb
            )

    def _stop_timer(self) -> None:
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
            self._timeout_handle = None

    def _timeout_cb(self) -> None:
        now = self.loop.time()
        if self._deadline is not None and now >= self._deadline:
            if self._waiting:
                self.input.fail(TimedOut())
            elif self.transport is not None:
                # It does not read our replies either.
                self.transport.abort()
            return
        delay = self.options.timeout if self._deadline is None else self._deadline - now
        self._timeout_handle = self.loop.call_later(delay, self._timeout_cb)

    # -- input and output -----------------------------------------------------------------------

    def say(self, reply: bytes | Reply) -> None:
        """Add a reply to those that leave with the next write."""
        self.said = reply if isinstance(reply, bytes) else reply.wire()
        self._out.append(self.said)

    async def push(self, status: bytes | Reply) -> None:  # type: ignore[override]
        """Send a reply now."""
        self.say(status)
        await self.flush()

    async def flush(self) -> None:
        """Send what is to be said, and wait while the client does not read. Raises Lost."""
        out = self._out
        if not out:
            return
        transport = self.transport
        if transport is None or transport.is_closing():
            out.clear()
            raise Lost
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
        if self._write_paused:
            await self._drain()

    async def _drain(self) -> None:
        """Wait until the client has read enough. Raises Lost."""
        self._drained = self.loop.create_future()
        self._deadline = self.loop.time() + self.options.timeout
        try:
            await self._drained
        finally:
            self._drained = None
            self._deadline = None
        if self.transport is None:
            raise Lost

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def read_block(self) -> bytes:
        """What is unread of the buffer, else the next block. Raises Lost, TimedOut."""
        if self._position < len(self._buffer):
            block = self._buffer[self._position :] if self._position else self._buffer
            self._buffer = b""
            self._position = 0
            return block
        await self.flush()
        self._deadline = self.loop.time() + self.options.timeout
        self._waiting = True
        try:
            block = await self.input.read()
        finally:
            self._waiting = False
            self._deadline = None
        if not block:
            raise Lost
        return block

    def unread(self, data: bytes) -> None:
        """Give back what followed a message."""
        self._buffer = data
        self._position = 0

    @property
    def has_input(self) -> bool:
        """Whether something is buffered that the client sent without waiting."""
        return self._position < len(self._buffer)

    def _next_line(self, limit: int) -> bytes | None:
        """The next line without its end, None if there is none yet. A bare LF ends a command as
        CR LF does (Postfix's smtpd_forbid_bare_newline = normalize)."""
        start = self._position
        end = self._buffer.find(b"\n", start)
        if end < 0:
            if len(self._buffer) - start > limit:
                self._overlong = True
                self._buffer = b""
                self._position = 0
            return None
        self._position = end + 1
        if self._overlong or end - start > limit:
            self._overlong = False
            return LINE_TOO_LONG
        return self._buffer[start:end].rstrip(b"\r")

    async def read_line(self, limit: int) -> bytes:
        """The next line, waiting for it; b"\\n" stands for one that is too long."""
        while True:
            line = self._next_line(limit)
            if line is not None:
                return line
            rest = self._buffer[self._position :]
            self._buffer = b""
            self._position = 0
            self._buffer = rest + await self.read_block() if rest else await self.read_block()

    # -- TLS and the log ------------------------------------------------------------------------

    async def start_tls(self, context: ssl.SSLContext) -> None:
        # Whatever came in the clear after STARTTLS was not said under TLS: it is dropped, not
        # carried over (command injection). What comes during the handshake was said under TLS: a
        # client may send its EHLO together with the handshake's last flight.
        self._buffer = b""
        self._position = 0
        self.input.detach()
        try:
            transport = await self.loop.start_tls(
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
        self.transport = transport
        self.input.attach(transport)  # type: ignore[arg-type]
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

    def begin_stop(self) -> None:
        """The service stops: end when nothing is under way."""
        raise NotImplementedError

    def force_stop(self) -> None:
        """End now."""
        raise NotImplementedError

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


class _Nothing:
    """Stands for the base's session record, whose place `Client` takes."""

    peer: object = None
    ssl: object = None


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", "") or "") or str(error) or type(error).__name__
