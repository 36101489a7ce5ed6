"""Replies of an SMTP or LMTP server, as a client reads them (RFC 5321 §4.2). Pure, no I/O."""

from __future__ import annotations

import re

from resel_mta.mail import Reply

MAX_LINE = 4096
MAX_REPLY = 65536
_CODES = {b"%d" % code: code for code in range(200, 600)}
# A reply with an enhanced code: the reply's class, the code, the text.
_ONE_LINE = re.compile(rb"\d\d\d (?=(\d))(\d\.\d{1,3}\.\d{1,3}) ([^\r\n]*[^\s])[\r\n]*")


class ReplyError(ValueError):
    """What the server sent is not a reply: junk, an over-long line or an endless reply."""


class ServerReply:
    """One reply, one or more lines.

    code: 200 to 599. raw: the lines as sent, with their code; line ends as sent, but the last LF
    may be missing.
    """

    __slots__ = ("code", "raw")

    def __init__(self, code: int, raw: bytes) -> None:
        self.code = code
        self.raw = raw

    def __repr__(self) -> str:
        return f"ServerReply({self.code}, {self.raw!r})"

    @property
    def log_text(self) -> str:
        """All lines with their codes, joined by spaces: how Postfix quotes a server."""
        text = self.raw.decode("utf-8", "backslashreplace")
        return " ".join(line.strip() for line in text.splitlines())

    @property
    def lines(self) -> list[str]:
        """The lines without code and hyphen."""
        text = self.raw.decode("utf-8", "backslashreplace")
        return [line[4:].rstrip() for line in text.split("\n") if line]

    @property
    def enhanced(self) -> str:
        """The enhanced status code of the last line (RFC 2034), or "" if there is none that
        agrees with the reply code."""
        return enhanced_code(self.lines[-1], self.code // 100)

    def reply(self) -> Reply:
        """The same as a `Reply`, the enhanced code taken off each line."""
        match = _ONE_LINE.fullmatch(self.raw)
        if match is not None and match[1] == self.raw[:1]:
            return Reply(self.code, match[2].decode(), match[3].decode("utf-8", "backslashreplace"))
        lines = self.lines
        enhanced = enhanced_code(lines[-1], self.code // 100)
        if enhanced:
            prefix = enhanced + " "
            lines = [line.removeprefix(prefix) if line != enhanced else "" for line in lines]
        return Reply(self.code, enhanced, "\n".join(lines))


def enhanced_code(text: str, digit: int) -> str:
    """The enhanced code that starts `text` ("5.1.1 …") if it is well formed and its class is
    `digit` (RFC 3463 §2), else ""."""
    word = text.partition(" ")[0]
    parts = word.split(".")
    if len(parts) != 3 or parts[0] != str(digit):
        return ""
    for part in parts[1:]:
        if not (part.isascii() and part.isdigit() and len(part) <= 3):
            return ""
    return word


class ReplyParser:
    """Cuts a server's octets into replies.

    A line ends in LF, with or without CR. A hyphen after the code says that more lines come; where
    the codes of one reply differ, the last counts, as with Postfix.
    """

    __slots__ = ("_buffer", "_open")

    def __init__(self) -> None:
        self._buffer = b""
        # Where the last, unfinished line of the reply that is being read begins.
        self._open = 0

    @property
    def pending(self) -> bool:
        """Whether octets of an unfinished reply were received."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[ServerReply]:
        """The replies that these octets complete. Raises ReplyError; the parser is of no use
        after that."""
        if not self._buffer and data[-1:] == b"\n" and len(data) <= MAX_LINE:
            # Nearly always: whole replies of one line each.
            replies = []
            for line in data[:-1].split(b"\n"):
                code = _CODES.get(line[:3])
                if code is None or line[3:4] != b" ":
                    return self._feed(data)
                replies.append(ServerReply(code, line))
            return replies
        return self._feed(data)

    def _feed(self, data: bytes) -> list[ServerReply]:
        buffer = self._buffer + data if self._buffer else data
        replies = []
        start = 0
        line = self._open
        while (end := buffer.find(b"\n", line)) >= 0:
            if end - line > MAX_LINE:
                raise ReplyError("over-long reply line")
            digits = buffer[line : line + 3]
            if not digits.isdigit() or not 0x32 <= digits[0] <= 0x35:
                raise ReplyError(_shown(buffer[line:end]))
            # Three digits stand before the line end, so there is a fourth octet.
            mark = buffer[line + 3]
            if mark == 0x2D:
                line = end + 1
                continue
            if mark not in b" \r\n":
                raise ReplyError(_shown(buffer[line:end]))
            line = end + 1
            replies.append(ServerReply(int(digits), buffer[start:line]))
            start = line
        self._buffer = buffer[start:]
        self._open = line - start
        if len(buffer) - line > MAX_LINE or len(self._buffer) > MAX_REPLY:
            raise ReplyError("over-long reply")
        return replies


def _shown(line: bytes) -> str:
    return line[:100].decode("ascii", "backslashreplace").strip()
