"""Names: of message files (maildir(5), Dovecot's `,S=` and `,W=`) and of folders (modified UTF-7).

A message file is ``<base>:2,<info>``. The base never changes and is the message's identity in
`dovecot-uidlist`; the info holds flags (D F R S T) and keywords (a to z) in ASCII order.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from operator import contains, itemgetter

FLAG_LETTERS = {
    "\\Draft": "D",
    "\\Flagged": "F",
    "\\Answered": "R",
    "\\Seen": "S",
    "\\Deleted": "T",
}
LETTER_FLAGS = {letter: flag for flag, letter in FLAG_LETTERS.items()}

# Where a file stays that cannot be moved to cur/, as seen from there.
IN_NEW = "../new/"

_ALL_SECONDS = re.compile(r"(?:[0-9]{10}\.)*")
_MICROSECONDS = re.compile(r"M([0-9]{1,9})")
_SHIFTED = re.compile(r"&([A-Za-z0-9+,]*)-")
_PLAIN_RUN = re.compile(r"[\x20-\x7e]+|[^\x20-\x7e]+")


def base_of(filename: str) -> str:
    """The part that never changes: all before the ":"."""
    return filename.partition(":")[0]


def info_of(filename: str) -> str:
    """The flag and keyword letters, "" if there are none."""
    rest = filename.partition(":2,")[2]
    return rest.partition(",")[0]


def ending_of(name: str, base: str) -> str:
    """What a name has beside its base: what follows it, with `IN_NEW` before that if it is there."""
    if name[0] != ".":
        return name[len(base) :]
    return IN_NEW + name[len(IN_NEW) + len(base) :]


def endings_of(names: Sequence[str]) -> dict[str, str]:
    """base -> ending of each of these names in cur/, in their order. Of two names of one message,
    the later one's."""
    text = "\n".join(names)
    colons, ends = text.count(":"), text.count("\n") + 1
    if colons == ends == len(names) and all(map(contains, names, itertools.repeat(":"))):
        words = text.replace(":", "\n").split("\n")
        infos = words[1::2]
        endings = {info: f":{info}" for info in set(infos)}
        return dict(zip(words[::2], map(endings.__getitem__, infos), strict=True))
    return {(base := base_of(name)): name[len(base) :] for name in names}


def joined(base: str, ending: str) -> str:
    """The name that `ending_of` took apart."""
    if ending.startswith(IN_NEW):
        return IN_NEW + base + ending[len(IN_NEW) :]
    return base + ending


def with_info(filename: str, letters: str) -> str:
    """The same message's name with other letters. What follows a second comma is kept, as
    maildir(5) asks for programs' own additions."""
    base, _, rest = filename.partition(":2,")
    comma = rest.find(",")
    extra = rest[comma:] if comma >= 0 else ""
    return f"{base_of(base)}:2,{''.join(sorted(set(letters)))}{extra}"


def arrival_key(name: str) -> tuple[int, int, str]:
    """Sorts file names by delivery time: the seconds, then the microseconds after "M"."""
    seconds, _, rest = name.partition(".")
    match = _MICROSECONDS.match(rest)
    number = int(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 20 else 0
    return number, int(match.group(1)) if match else 0, name


def in_arrival_order(names: Iterable[str]) -> list[str]:
    """Sorted by `arrival_key`. Nearly all names begin with ten digits and a point, and then only
    those of the same second have to be looked at more closely."""
    ordered = sorted(names)
    seconds = [name[:11] for name in ordered]
    if not _ALL_SECONDS.fullmatch("".join(seconds)):
        return sorted(ordered, key=arrival_key)
    if len(set(seconds)) < len(ordered):
        groups = itertools.groupby(zip(seconds, ordered, strict=True), key=itemgetter(0))
        ordered = [
            name
            for _, group in groups
            for name in sorted((name for _, name in group), key=arrival_key)
        ]
    return ordered


def size_in_name(base: str, letter: str) -> int | None:
    """The number after ",S=" (octets of the file) or ",W=" (octets with CR LF line ends)."""
    _, found, rest = base.partition(f",{letter}=")
    digits = rest.partition(",")[0]
    return int(digits) if found and digits.isascii() and digits.isdigit() else None


class NameMaker:
    """New unique file names: ``seconds.M<µs>P<pid>Q<n>.host``, with the device and inode added
    once they are known, so that even a reset clock and a reused pid give no name twice."""

    def __init__(self) -> None:
        host = socket.gethostname() or "localhost"
        self.host = host.replace("/", "\\057").replace(":", "\\072").replace(",", "\\054")
        self._sequence = itertools.count(1)
        self._lock = threading.Lock()

    def temporary(self) -> str:
        """A name for a file in tmp/."""
        now = time.time_ns()
        with self._lock:
            number = next(self._sequence)
        return f"{now // 10**9}.M{now // 1000 % 10**6}P{os.getpid()}Q{number}.{self.host}"

    def final(self, temporary: str, stat: os.stat_result, wire_size: int | None) -> str:
        """The base of a written file: `stat` of it, and its size with CR LF line ends
        if that is known."""
        unique = temporary[: -len(self.host) - 1]
        base = f"{unique}V{stat.st_dev:016X}I{stat.st_ino:016X}.{self.host},S={stat.st_size}"
        return base if wire_size is None else f"{base},W={wire_size}"


def encode_mutf7(name: str) -> str:
    """Modified UTF-7 (RFC 3501 §5.1.3) of one folder name."""
    out: list[str] = []
    for run in _PLAIN_RUN.findall(name):
        if " " <= run[0] <= "~":
            out.append(run.replace("&", "&-"))
        else:
            packed = base64.b64encode(run.encode("utf-16-be", "surrogatepass"))
            out.append(f"&{packed.decode('ascii').rstrip('=').replace('/', ',')}-")
    return "".join(out)


def decode_mutf7(encoded: str) -> str:
    """The name; a ValueError if it is no modified UTF-7 in its one canonical form."""

    def unshift(match: re.Match[str]) -> str:
        packed = match.group(1)
        if not packed:
            return "&"
        raw = base64.b64decode(packed.replace(",", "/") + "=" * (-len(packed) % 4), validate=True)
        return raw.decode("utf-16-be")

    name = _SHIFTED.sub(unshift, encoded)
    if encode_mutf7(name) != encoded:
        raise ValueError(f"not modified UTF-7: {encoded!r}")
    return name


def decode_found(found: str) -> str:
    """The name of a folder as found on disk: modified UTF-7 (Dovecot's default), else UTF-8 as
    it stands (Dovecot's `:UTF-8`, and other programs)."""
    try:
        return decode_mutf7(found)
    except ValueError:
        return found.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
