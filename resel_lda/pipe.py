"""A command as local(8) runs it: standard input is the message, the exit status says what became
of it. Blocks; runs with the rights of the calling process.

A command line of harmless characters is split at spaces and executed; any other goes to /bin/sh.
Nothing of the message is ever part of it: what the command may want to know is in its environment,
where `command_expansion_filter` has made harmless what a stranger wrote.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from resel_mta.mail import Bounced, Deferred, Delivered, Outcome, Reply

#: Octets of a command's output that are kept for the log and the bounce; the rest is thrown away.
_OUTPUT = 2048
_BLOCK = 1 << 16
#: Seconds that are waited for a killed process group to be gone.
_REAP = 5.0

# Postfix's list (exec_command(3)): with anything else the command is the shell's.
_PLAIN = re.compile(r"[0-9A-Za-z!@%\-_=+:,./ \t]+")
_STATUS = re.compile(r"([45])\.(\d{1,3})\.(\d{1,3})(?=[ \t\n]|$)")

#: sysexits.h, in Postfix's words (sys_exits(3)).
SYSEXITS: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        64: ("5.3.0", "command line usage error"),
        65: ("5.6.0", "data format error"),
        66: ("5.3.0", "cannot open input"),
        67: ("5.1.1", "user unknown"),
        68: ("5.1.2", "host name unknown"),
        69: ("5.3.0", "service unavailable"),
        70: ("5.3.0", "internal software error"),
        71: ("4.3.0", "system resource problem"),
        72: ("5.3.0", "critical OS file missing"),
        73: ("5.2.0", "can't create user output file"),
        74: ("5.3.0", "input/output error"),
        75: ("4.3.0", "temporary failure"),
        76: ("5.5.0", "remote error in protocol"),
        77: ("5.7.0", "permission denied"),
        78: ("5.3.5", "local configuration error"),
    }
)


@dataclass(frozen=True, slots=True)
class Command:
    """line: as the alias has it, without "|". shell: `local_command_shell`, or "".

    environment: all of it. directory: where it runs. time_limit: seconds until it is killed.
    """

    line: str
    environment: Mapping[str, str]
    directory: str = "/"
    shell: str = ""
    time_limit: float = 1000.0


class Stopped(Exception):
    """It was killed because the mail system shuts down."""


@dataclass(slots=True)
class _End:
    """How it went. status: as `Popen.returncode`, None if it was killed for its time."""

    status: int | None
    output: bytes
    failed: OSError | None = None


def run_command(command: Command, message: Iterable[bytes], stop: int = -1) -> Outcome:
    """Run it and judge its end as Postfix's local(8) does. Raises OSError only when the message
    cannot be read. stop: a descriptor that becomes readable when all is to end; -1 for none."""
    try:
        process = _start(command)
    except OSError as error:
        words = f"local: fatal: execvp {_program(command)}: {error.strerror}"
        return _outcome("4.3.0", f"temporary failure. Command output: {words}")
    try:
        end = _talk(process, iter(message), time.monotonic() + command.time_limit, stop)
    except Stopped:
        return _outcome("4.3.2", f'mail system shuts down: "{command.line}" was killed')
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    return judge(command.line, end.status, end.output, end.failed)


def judge(line: str, status: int | None, output: bytes, failed: OSError | None = None) -> Outcome:
    """What an exit status means. status: negative for a signal, None for a time limit."""
    # Line ends to spaces, as Postfix; whatever else could disturb a terminal to "?".
    said = "".join(
        c if c.isprintable() else " " if c in "\n\t" else "?"
        for c in output.decode("utf-8", "replace")
    ).strip()
    more = f". Command output: {said}" if said else ""
    if status is None:
        return _outcome("5.3.0", f'Command time limit exceeded: "{line}"{more}')
    if status == 0:
        if failed is not None:
            return _outcome("4.3.0", f'Command failed: {failed.strerror}: "{line}"')
        return Delivered(Reply(250, "2.0.0", f"delivered to command: {line}"), relay="local")
    if status < 0:
        return _outcome("4.3.0", f'Command died with signal {-status}: "{line}"{more}')
    own = _STATUS.match(said)
    if own is not None:
        return _outcome(own.group(), said[own.end() :].strip() or "rejected by the command")
    if status in SYSEXITS:
        enhanced, text = SYSEXITS[status]
        return _outcome(enhanced, text + more)
    return _outcome("5.3.0", f'Command died with status {status}: "{line}"{more}')


def _outcome(enhanced: str, text: str) -> Outcome:
    if enhanced.startswith("4"):
        return Deferred(Reply(451, enhanced, text), relay="local")
    return Bounced(Reply(550, enhanced, text), relay="local")


def _program(command: Command) -> str:
    words = (command.shell or command.line).split()
    return words[0] if words else ""


def arguments(command: Command) -> list[str]:
    """argv: local_command_shell's with the line, the line's words, or the shell's."""
    if command.shell:
        return [*command.shell.split(), command.line]
    if _PLAIN.fullmatch(command.line) and command.line.split():
        return command.line.split()
    return ["/bin/sh", "-c", command.line]


def _start(command: Command) -> subprocess.Popen[bytes]:
    """Raises OSError."""
    argv = arguments(command)
    try:
        return _popen(argv, command)
    except FileNotFoundError:
        if command.shell or "/" in argv[0] or not os.path.isdir(command.directory):
            raise
        # A shell's own command, such as "exit 67".
        return _popen(["/bin/sh", "-c", command.line], command)


def _popen(argv: list[str], command: Command) -> subprocess.Popen[bytes]:
    # A session of its own, so that all of it can be killed, and no terminal is at hand.
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=command.directory,
        env=dict(command.environment),
        start_new_session=True,
        bufsize=0,
    )


def _talk(
    process: subprocess.Popen[bytes], message: Iterator[bytes], deadline: float, stop: int
) -> _End:
    """Write the message and keep the beginning of what it says, until it exits. What it leaves
    behind in the background is not waited for. Raises Stopped, OSError."""
    assert process.stdin is not None
    assert process.stdout is not None
    talk = _Talk(message)
    exited = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for pipe, event in (
                (process.stdin, selectors.EVENT_WRITE),
                (process.stdout, selectors.EVENT_READ),
            ):
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, event)
            selector.register(exited, selectors.EVENT_READ)
            if stop >= 0:
                selector.register(stop, selectors.EVENT_READ)
            while True:
                ready = selector.select(max(deadline - time.monotonic(), 0.0))
                if not ready and time.monotonic() >= deadline:
                    _kill(process)
                    return _End(None, bytes(talk.output))
                for key, _ in ready:
                    if key.fd == exited:
                        status = process.wait()
                        talk.read(process.stdout.fileno())
                        return _End(status, bytes(talk.output), talk.failed)
                    if key.fd == stop:
                        raise Stopped
                    if key.fileobj is process.stdin:
                        if not talk.write(key.fd):
                            selector.unregister(process.stdin)
                            process.stdin.close()
                    elif not talk.read(key.fd):
                        selector.unregister(process.stdout)
    except BaseException:
        _kill(process)
        raise
    finally:
        os.close(exited)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, as Postfix: a command that ignores SIGTERM must not hold up mail."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_REAP)


class _Talk:
    """Both directions of a command's pipes."""

    def __init__(self, message: Iterator[bytes]) -> None:
        self._message = message
        self._rest = memoryview(b"")
        self.output = bytearray()
        self.failed: OSError | None = None

    def write(self, descriptor: int) -> bool:
        """False when all is written, or the command wants no more."""
        if not self._rest:
            block = next(self._message, None)
            if block is None:
                return False
            self._rest = memoryview(block)
        try:
            self._rest = self._rest[os.write(descriptor, self._rest[:_BLOCK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            # It need not read what it does not want: its exit status counts.
            return False
        except OSError as error:
            self.failed = error
            return False
        return True

    def read(self, descriptor: int) -> bool:
        """Take what is there; False at its end."""
        for _ in range(16):
            try:
                block = os.read(descriptor, _BLOCK)
            except BlockingIOError:
                return True
            if not block:
                return False
            self.output += block[: max(_OUTPUT - len(self.output), 0)]
        return True


def safe_value(text: str, allowed: str) -> str:
    """What a stranger wrote, with "_" for every character that is not in `allowed`
    (command_expansion_filter)."""
    return "".join(c if c in allowed else "_" for c in text)
