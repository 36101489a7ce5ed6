"""Access rules of the SMTP server (smtpd_*_restrictions): which exist, and their classes."""

from __future__ import annotations

from collections.abc import Callable

from resel_mta.config.grammar import split_items

VERBS = frozenset(
    (
        "permit",
        "reject",
        "defer",
        "permit_mynetworks",
        "permit_sasl_authenticated",
        "reject_unauth_destination",
        "defer_unauth_destination",
        "reject_unlisted_recipient",
        "reject_unauth_pipelining",
        "reject_unknown_client_hostname",
        "reject_unknown_reverse_client_hostname",
    )
)
# One of these makes a list fail for destinations that are not ours.
CLOSING_VERBS = frozenset(
    ("reject", "defer", "reject_unauth_destination", "defer_unauth_destination")
)


def parse_restrictions(
    text: str, class_text: Callable[[str], str | None], above: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The verbs of a list, with classes put in where they are named.

    class_text: the list of a restriction class, None if there is no such class. A class that
    permits or rejects does so for the list that names it, so putting it in changes nothing.
    Raises ValueError for a verb that is not supported.
    """
    verbs: list[str] = []
    for item in split_items(text):
        verb = item.lower()
        if verb in VERBS:
            verbs.append(verb)
            continue
        inner = class_text(item)
        if inner is None:
            raise ValueError(
                f'access rule "{item}" is not supported; supported are: {", ".join(sorted(VERBS))}'
            )
        if item in above:
            raise ValueError(f'restriction class "{item}" names itself')
        verbs.extend(parse_restrictions(inner, class_text, (*above, item)))
    return tuple(verbs)


def closes_relay(verbs: tuple[str, ...]) -> bool:
    """Whether a list cannot end in a permit for anybody's mail to anywhere."""
    for verb in verbs:
        if verb in CLOSING_VERBS:
            return True
        if verb == "permit":
            return False
    return False
