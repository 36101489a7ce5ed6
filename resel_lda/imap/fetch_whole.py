"""FETCH of whole messages with what is known of them: what clients that keep all mail ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from resel_lda.imap.fetch_items import FLAGS, MODSEQ, SIZE, UID, Item, Loaded, Section

# By item: how it stands in the response, and its value.
_KNOWN: dict[bytes, tuple[bytes, Callable[[Loaded], object]]] = {
    UID.name: (b"UID %d", lambda loaded: loaded.info.uid),
    FLAGS.name: (b"FLAGS (%b)", lambda loaded: loaded.view.flags(loaded.info)),
    MODSEQ.name: (b"MODSEQ (%d)", lambda loaded: loaded.info.modseq),
    SIZE.name: (b"RFC822.SIZE %d", lambda loaded: loaded.size),
}


@dataclass(slots=True)
class Template:
    """Of a response: what comes before the message's octets (the last value is their number) and
    after them."""

    before: bytes
    after: bytes
    values_before: list[Callable[[Loaded], object]]
    values_after: list[Callable[[Loaded], object]]

    def pieces(self, loaded: Sequence[Loaded]) -> list[bytes]:
        """The responses, in pieces, so that the octets are copied no more than once."""
        out: list[bytes] = []
        for one in loaded:
            octets = one.message
            # NUL may not be in a literal (RFC 3501 §9, CHAR8).
            if b"\0" in octets:
                octets = octets.replace(b"\0", b"\x80")
            values = [value(one) for value in self.values_before]
            out.append(self.before % (one.sequence, *values, len(octets)))
            out.append(octets)
            out.append(self.after % tuple([value(one) for value in self.values_after]))
        return out


def template(items: Sequence[Item], head: bytes) -> Template | None:
    """head: FETCH or UIDFETCH. None if it is not one whole message and what is known of it."""
    whole = [at for at, item in enumerate(items) if _is_whole(item.section)]
    if len(whole) != 1 or any(
        item.name not in _KNOWN for at, item in enumerate(items) if at != whole[0]
    ):
        return None
    at = whole[0]
    before = [_KNOWN[item.name] for item in items[:at]]
    after = [_KNOWN[item.name] for item in items[at + 1 :]]
    words = b"".join(word + b" " for word, _ in before)
    return Template(
        b"* %%d %b (%b%b {%%d}\r\n" % (head, words, items[at].name),
        b"".join(b" " + word for word, _ in after) + b")\r\n",
        [value for _, value in before],
        [value for _, value in after],
    )


def _is_whole(section: Section | None) -> bool:
    return section is not None and not (section.path or section.kind or section.partial)
