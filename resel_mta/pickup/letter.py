"""What resel-sendmail tells the daemon: a line of JSON with the envelope, then the content.

The same octets go over the public socket and lie in a drop file. The daemon answers on the socket
with one line of JSON. Neither side trusts the other: `decode` checks every type.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

#: The most octets of the line that holds the envelope.
ENVELOPE_LIMIT = 1024 * 1024
#: Octets of content that are read or written at once.
BLOCK = 64 * 1024

_TOKEN = re.compile(r"[0-9a-f]{32}")
_NOTIFY = frozenset(("NEVER", "SUCCESS", "FAILURE", "DELAY"))


class LetterError(ValueError):
    """Not a letter; str() says why."""


def is_token(text: str) -> bool:
    """Whether it may name a drop file."""
    return _TOKEN.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Letter:
    """The envelope of a message, and how much content follows.

    token: 32 random hex digits, by which the message is known when it is handed in twice.
    sender: "" for the null sender. size: octets of content; its lines end in CR LF.
    full_name: the sender's, for a From field. rewrite: whether header addresses are completed
    and missing fields added (not with -G). body: "", "7BIT" or "8BITMIME". notify: of NEVER,
    SUCCESS, FAILURE, DELAY. ret: "", "FULL" or "HDRS". envid: in xtext.
    verify: nothing is sent; the answer says what is known of the recipients.
    """

    token: str
    sender: str
    recipients: tuple[str, ...]
    size: int
    full_name: str = ""
    rewrite: bool = True
    body: str = ""
    notify: tuple[str, ...] = ()
    ret: str = ""
    envid: str = ""
    verify: bool = False

    def encode(self) -> bytes:
        """The line. Raises LetterError when there are too many recipients for one."""
        line = json.dumps(dataclasses.asdict(self)).encode() + b"\n"
        if len(line) > ENVELOPE_LIMIT:
            raise LetterError("too many recipients for one message")
        return line

    @classmethod
    def decode(cls, line: bytes) -> Letter:
        """Raises LetterError."""
        try:
            fields: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in json.loads(line).items()
            }
            letter = cls(**fields)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise LetterError("the envelope cannot be read") from error
        letter._check()
        return letter

    def _check(self) -> None:
        if not isinstance(self.recipients, tuple) or not isinstance(self.notify, tuple):
            raise LetterError("the envelope holds something that is no list")
        texts = (self.sender, self.full_name, self.envid, *self.recipients, *self.notify)
        if not all(isinstance(text, str) for text in texts):
            raise LetterError("the envelope holds something that is no text")
        if any(not _is_clean(text) for text in texts):
            raise LetterError("the envelope holds control characters or text that is not UTF-8")
        flags = (self.rewrite, self.verify)
        if type(self.size) is not int or self.size < 0 or not all(type(f) is bool for f in flags):
            raise LetterError("the envelope holds a bad size or flag")
        if not isinstance(self.token, str) or not is_token(self.token):
            raise LetterError("the envelope has no token")
        known = self.body in ("", "7BIT", "8BITMIME") and self.ret in ("", "FULL", "HDRS")
        if not known or not _NOTIFY.issuperset(self.notify) or len(self.envid) > 400:
            raise LetterError("the envelope asks for something unknown")
        if not self.recipients:
            raise LetterError("the envelope has no recipients")


def _is_clean(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return all(char >= " " and char != "\x7f" for char in text)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a letter.

    exit: a sysexits code, 0 where it was taken. text: why not, in one line. queue_id: "" if not
    taken. refused: (recipient, reason) of those that it was not taken for. verified: (recipient,
    what is known of it) for `verify`. busy: the daemon had no time for it; nothing was looked at.
    """

    exit: int = 0
    text: str = ""
    queue_id: str = ""
    refused: tuple[tuple[str, str], ...] = ()
    verified: tuple[tuple[str, str], ...] = ()
    busy: bool = False

    def encode(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Answer:
        """Raises LetterError."""
        try:
            raw = json.loads(line)
            pairs = {
                name: tuple((str(first), str(second)) for first, second in raw[name])
                for name in ("refused", "verified")
            }
            return cls(
                int(raw["exit"]), str(raw["text"]), str(raw["queue_id"]),
                pairs["refused"], pairs["verified"], bool(raw["busy"]),
            )  # fmt: skip
        except (ValueError, TypeError, KeyError) as error:
            raise LetterError("the answer cannot be read") from error
