"""Message content on an SMTP connection: end of data, dot-stuffing, line ends. Pure, no I/O.

Rules, the same for DATA and BDAT, so that no two servers can disagree about where a message
ends (SMTP smuggling):

- Only CR LF "." CR LF ends DATA; the start of the data counts as the start of a line
  (RFC 5321 §4.1.1.4, §4.5.2).
- A bare LF becomes CR LF in what is kept, and a dot at the start of the line after it is removed
  like any other (§4.5.2), but a line that is such a dot alone is content: it neither ends the data
  nor disappears. So clients that end all lines in LF are understood as Postfix understands them
  with smtpd_forbid_bare_newline = normalize. A bare CR is kept, but noted in `bare_cr`: the caller
  refuses such a message, since its lines cannot be told apart by everybody in the same way.
- What is kept is empty or ends in CR LF.

All other octets, NUL and 8-bit ones among them, and lines of any length pass unchanged.
"""

from __future__ import annotations

CRLF = b"\r\n"
END_MARK = b"\r\n.\r\n"


class LineNormalizer:
    """Turns bare LF into CR LF in a stream of blocks (BDAT content, RFC 3030).

    bare_cr, bare_lf: whether the stream held one so far.
    size: octets of the stream so far, before any change.
    """

    __slots__ = ("_ended", "_held", "bare_cr", "bare_lf", "size")

    def __init__(self) -> None:
        self.bare_cr = False
        self.bare_lf = False
        self.size = 0
        self._held = b""
        self._ended = True

    def feed(self, block: bytes) -> bytes:
        """The normalised form of the next block; a CR at its end waits for the next one."""
        self.size += len(block)
        data = self._held + block if self._held else block
        self._held = b""
        if data.endswith(b"\r"):
            self._held = b"\r"
            data = data[:-1]
        if data:
            self._ended = data.endswith(b"\n")
        return self._normalize(data)

    def finish(self) -> bytes:
        """What is still owed at the end: a last line that nothing ended gets its CR LF."""
        rest = b""
        if self._held:
            self.bare_cr = True
            rest = b"\r"
        return rest + (CRLF if rest or not self._ended else b"")

    def _normalize(self, data: bytes) -> bytes:
        # What is left without the pairs is bare. With something as long in their place it takes a
        # fifth of the time, and counting each octet more.
        rest = data.replace(CRLF, b"  ")
        if b"\r" in rest:
            self.bare_cr = True
        if b"\n" in rest:
            self.bare_lf = True
            return data.replace(CRLF, b"\n").replace(b"\n", CRLF)
        return data


class DataDecoder(LineNormalizer):
    """Takes the octets after DATA's 354 in blocks of any size and gives back the content.

    done: the end mark was seen. rest: what came after it (the next commands).
    size: octets of the content on the wire so far, dots included.
    """

    __slots__ = ("_seen", "done", "rest")

    def __init__(self) -> None:
        super().__init__()
        self.done = False
        self.rest = b""
        # The line end before what is held, where it was given out already. The data starts as if
        # a line had just ended.
        self._held = self._seen = CRLF

    def feed(self, block: bytes) -> bytes:
        """The next piece of content (b"" if there is none yet). Not to be called once `done`."""
        seen = self._seen
        if seen is self._held is CRLF and block[:1] not in b".":
            # The usual beginning, which the line end before it is of no use to: no copy.
            seen, data = b"", block
        else:
            data = self._held + block
        dot = data.find(b"\r\n.")
        end = data.find(END_MARK, dot) if dot >= 0 else -1
        if end >= 0:
            self.done = True
            self.rest = data[end + 5 :]
            self._held = b""
            data = data[: end + 2]
        else:
            keep, self._seen = _undecided(data)
            cut = len(data) - keep
            if not cut:
                self._held, self._seen = data, seen
                return b""
            self._held = self._seen + data[cut:]
            data = data[:cut]
        self.size += len(data) - len(seen)
        data = self._unstuff(data, dotted=0 <= dot != end)
        return data[2:] if seen else data

    def _unstuff(self, data: bytes, *, dotted: bool) -> bytes:
        """dotted: there may be a dot to remove."""
        had_bare_lf, self.bare_lf = self.bare_lf, False
        data = self._normalize(data)
        if self.bare_lf:
            # Dots that stand alone get another one first, twice since such lines may follow each
            # other: nothing that was not the end mark may look like one or vanish.
            lone, doubled = END_MARK, b"\r\n..\r\n"
            data = data.replace(lone, doubled).replace(lone, doubled).replace(b"\r\n.", CRLF)
        elif dotted:
            data = data.replace(b"\r\n.", CRLF)
        self.bare_lf |= had_bare_lf
        return data

    def finish(self) -> bytes:
        """Nothing is owed: the end mark's own CR LF ended the last line."""
        return b""


def _undecided(data: bytes) -> tuple[int, bytes]:
    """How many octets at the end cannot be given out yet, since they may be the beginning of the
    end mark or a dot that is to be removed; and the bare LF before them, if that is what there is."""
    newline = data.rfind(b"\n", max(len(data) - 3, 0))
    if newline >= 0 and data[newline + 1 :] in (b"", b".", b".\r"):
        if data[newline - 1 : newline] == b"\r":
            keep = len(data) - newline + 1
            # The dot before it stands alone after a bare LF: it must be seen with its line's end.
            if data.endswith(b"\n.", 0, -keep) and data[-keep - 3 : -keep - 2] != b"\r":
                return keep + 1, b"\n"
            return keep, b""
        return len(data) - newline - 1, b"\n"
    return (1, b"") if data.endswith(b"\r") else (0, b"")


def dot_stuff(data: bytes) -> bytes:
    """Whole CR LF lines made ready for DATA (RFC 5321 §4.5.2); the end mark is not added."""
    if b"\r\n." in data:
        data = data.replace(b"\r\n.", b"\r\n..")
    return b"." + data if data.startswith(b".") else data


class DotStuffer:
    """`dot_stuff` for a stream of blocks that may be cut anywhere."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = CRLF

    def feed(self, block: bytes) -> bytes:
        """The next block, stuffed."""
        if not block:
            return b""
        tail = self._tail
        self._tail = (tail + block)[-2:] if len(block) < 2 else block[-2:]
        stuffed = block.replace(b"\r\n.", b"\r\n..") if b"\r\n." in block else block
        # A line end in the block before, or one that is cut between the two blocks.
        if tail == CRLF and block.startswith(b"."):
            return b"." + stuffed
        if tail.endswith(b"\r") and block.startswith(b"\n."):
            return b"\n.." + stuffed[2:]
        return stuffed

    def finish(self) -> bytes:
        """The end mark, after a CR LF if the content did not end in one."""
        return b".\r\n" if self._tail == CRLF else END_MARK
