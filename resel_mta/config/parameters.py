"""One table of all parameters: Postfix 3.7's and our own.

The rows are text, in files `table_*.py`, one parameter a line::

    TYPE NAME = DEFAULT ## what it does

TYPE is one of the types below; ``(low..high)`` after it is the range of a number, a size in
octets, a time in seconds, the length of a directory's path; ``{a b c}`` are the words allowed. A
default that starts with ``~`` is computed from the machine (`host.py`). Rows of what is not
implemented have no prose.
"""

from __future__ import annotations

import difflib
import enum
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from resel_mta.config import (
    table_harmless,
    table_local,
    table_mta,
    table_own,
    table_programs,
    table_refused,
    table_smtp,
    table_smtpd,
)

TYPES = frozenset(
    (
        *(
            "text",
            "flag",
            "number",
            "size",
            "space",
            "time",
            "choice",
            "file",
            "directory",
            "code",
            "address",
            "protocols",
        ),
        *("list", "choices", "maps", "domains", "networks", "restrictions", "listen"),
        "template",
        *("hostname", "ip", "nameservers", "nexthops", "nexthoplist", "port", "transport"),
    )
)


class Support(enum.Enum):
    """What becomes of a setting: it works; it is without danger and ignored; it stops the start
    unless it says what Postfix does by default anyway, because it could admit, reject, sign,
    encrypt or redirect mail."""

    IMPLEMENTED = "implemented"
    HARMLESS = "harmless"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Parameter:
    """name, type, default (as written, unexpanded), bounds, words and one line of prose."""

    name: str
    type: str
    default: str
    support: Support = Support.IMPLEMENTED
    low: int = 0
    high: int | None = None
    words: tuple[str, ...] = ()
    prose: str = ""

    @property
    def unit(self) -> str:
        """The unit of a time that is written without one: that of the default, as in Postfix."""
        return self.default[-1] if self.default[-1:] in "smhdw" and self.default else "s"


_ROW = re.compile(
    r"(?P<type>[a-z]+)(?:\((?P<low>\d*)\.\.(?P<high>\d*)\))?(?:\{(?P<words>[^}]*)\})?"
    r" (?P<name>\S+) =(?: (?P<default>.*))?"
)

# Per-transport parameters (transport_destination_concurrency_limit and so on): any transport's
# name before these. Those of the first group are implemented.
_TRANSPORT_IMPLEMENTED = {
    "destination_concurrency_limit": (
        "number",
        "$default_destination_concurrency_limit",
        "How many deliveries by {} go to one destination at a time.",
    ),
    "destination_recipient_limit": (
        "number",
        "$default_destination_recipient_limit",
        "How many recipients {} takes in one delivery.",
    ),
    "destination_rate_delay": (
        "time",
        "$default_destination_rate_delay",
        "How long {} waits between deliveries to one destination.",
    ),
    "initial_destination_concurrency": (
        "number",
        "$initial_destination_concurrency",
        "How many deliveries by {} go to a new destination at a time.",
    ),
}
_TRANSPORT_HARMLESS = {
    "delivery_slot_cost": "$default_delivery_slot_cost",
    "delivery_slot_discount": "$default_delivery_slot_discount",
    "delivery_slot_loan": "$default_delivery_slot_loan",
    "destination_concurrency_failed_cohort_limit": "$default_destination_concurrency_failed_cohort_limit",
    "destination_concurrency_negative_feedback": "$default_destination_concurrency_negative_feedback",
    "destination_concurrency_positive_feedback": "$default_destination_concurrency_positive_feedback",
    "extra_recipient_limit": "$default_extra_recipient_limit",
    "minimum_delivery_slots": "$default_minimum_delivery_slots",
    "recipient_limit": "$default_recipient_limit",
    "recipient_refill_delay": "$default_recipient_refill_delay",
    "recipient_refill_limit": "$default_recipient_refill_limit",
    "transport_rate_delay": "$default_transport_rate_delay",
    "time_limit": "$command_time_limit",
}
TRANSPORTS = ("local", "virtual", "smtp", "relay", "lmtp", "error", "retry")


def parse_rows(rows: str, support: Support) -> Iterable[Parameter]:
    """The parameters that a table describes. ValueError for a row that is none."""
    for row in rows.splitlines():
        if not row:
            continue
        head, _, prose = row.partition(" ## ")
        match = _ROW.fullmatch(head)
        if match is None or match["type"] not in TYPES:
            raise ValueError(f"not a parameter: {row}")
        yield Parameter(
            name=match["name"],
            type=match["type"],
            default=match["default"] or "",
            support=support,
            low=int(match["low"] or 0),
            high=int(match["high"]) if match["high"] else None,
            words=tuple(word.strip('"') for word in (match["words"] or "").split()),
            prose=prose,
        )


@functools.cache
def table() -> Mapping[str, Parameter]:
    """All parameters by name, sorted."""
    found: dict[str, Parameter] = {}
    for rows, support in (
        (table_mta.ROWS, Support.IMPLEMENTED),
        (table_smtpd.ROWS, Support.IMPLEMENTED),
        (table_smtp.ROWS, Support.IMPLEMENTED),
        (table_own.ROWS, Support.IMPLEMENTED),
        (table_local.ROWS, Support.IMPLEMENTED),
        (table_harmless.ROWS, Support.HARMLESS),
        (table_programs.ROWS, Support.HARMLESS),
        (table_refused.ROWS, Support.REFUSED),
    ):
        for parameter in parse_rows(rows, support):
            if parameter.name in found:
                raise ValueError(f"two rows for {parameter.name}")
            found[parameter.name] = parameter
    for transport in TRANSPORTS:
        for suffix in (*_TRANSPORT_IMPLEMENTED, *_TRANSPORT_HARMLESS):
            if suffix == "time_limit" or f"{transport}_{suffix}" in found:
                continue
            parameter = _of_transport(transport, suffix)
            found[parameter.name] = parameter
    return MappingProxyType(dict(sorted(found.items())))


def find(name: str) -> Parameter | None:
    """The parameter of that name; also one for a transport that only this configuration has."""
    parameter = table().get(name)
    if parameter is not None:
        return parameter
    for suffix in (*_TRANSPORT_IMPLEMENTED, *_TRANSPORT_HARMLESS):
        if name.endswith(f"_{suffix}") and len(name) > len(suffix) + 1:
            return _of_transport(name[: -len(suffix) - 1], suffix)
    return None


def _of_transport(transport: str, suffix: str) -> Parameter:
    implemented = _TRANSPORT_IMPLEMENTED.get(suffix)
    if implemented is not None:
        kind, default, prose = implemented
        return Parameter(f"{transport}_{suffix}", kind, default, prose=prose.format(transport))
    return Parameter(f"{transport}_{suffix}", "text", _TRANSPORT_HARMLESS[suffix], Support.HARMLESS)


def similar(name: str) -> str:
    """The known name that `name` is most like, or ""."""
    close = difflib.get_close_matches(name, table(), 1, 0.75)
    return close[0] if close else ""
