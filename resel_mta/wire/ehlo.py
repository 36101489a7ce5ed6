"""What a server offers in its answer to EHLO or LHLO (RFC 5321 §4.1.1.1). Pure, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """A server's service extensions.

    name: the host name the server gave itself. size: octets (RFC 1870); 0 means that no limit was
    named, None that SIZE was not offered. auth: SASL mechanisms in the server's order.
    """

    name: str = ""
    pipelining: bool = False
    size: int | None = None
    eight_bit_mime: bool = False
    smtputf8: bool = False
    dsn: bool = False
    starttls: bool = False
    chunking: bool = False
    enhanced_status_codes: bool = False
    auth: tuple[str, ...] = ()


def parse_ehlo(lines: Sequence[str], discard: Collection[str] = ()) -> Capabilities:
    """The capabilities in the reply's lines (without code and hyphen).

    discard: keywords to ignore, in lower case (`smtp_discard_ehlo_keywords`). Keywords compare
    without case. "AUTH=LOGIN PLAIN", as old servers say it, counts as AUTH.
    """
    offered: dict[str, str] = {}
    for line in lines[1:]:
        keyword, _, parameter = line.strip().partition(" ")
        keyword = keyword.lower()
        if keyword.startswith("auth="):
            keyword, parameter = "auth", f"{keyword[5:]} {parameter}"
        if keyword not in discard:
            offered[keyword] = f"{offered.get(keyword, '')} {parameter}".strip()
    return Capabilities(
        name=lines[0].strip().partition(" ")[0] if lines else "",
        pipelining="pipelining" in offered,
        size=_size(offered.get("size")),
        eight_bit_mime="8bitmime" in offered,
        smtputf8="smtputf8" in offered,
        dsn="dsn" in offered,
        starttls="starttls" in offered,
        chunking="chunking" in offered,
        enhanced_status_codes="enhancedstatuscodes" in offered,
        auth=tuple(dict.fromkeys(offered.get("auth", "").upper().split())),
    )


def _size(parameter: str | None) -> int | None:
    if parameter is None:
        return None
    word = parameter.partition(" ")[0]
    # A limit that is no number is as good as none.
    return int(word) if word.isascii() and word.isdigit() and len(word) <= 20 else 0
