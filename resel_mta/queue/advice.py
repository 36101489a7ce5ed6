"""What an enhanced status code (RFC 3463) means to the person who sent the mail, and what they
can do, in plain words. Lines are at most 70 characters long."""

from __future__ import annotations

from resel_mta.mail import Outcome

_BY_CODE: dict[str, tuple[str, ...]] = {
    "1.1": (
        "There is no such address. Check its spelling, or ask the person for",
        "the right one.",
    ),
    "1.2": (
        "The part after the @ is not the name of a system that takes mail.",
        "Check its spelling.",
    ),
    "1.3": ("This is not a valid address. Check its spelling.",),
    "1.6": ("The person's mailbox has moved. Ask for the new address.",),
    "1.10": ("This domain says that it takes no mail at all.",),
    "2.1": ("The mailbox is switched off. Reach the person in another way.",),
    "2.2": (
        "The recipient's mailbox is full. Try again later, or reach the",
        "person in another way.",
    ),
    "2.3": (
        "The message is larger than this recipient may get. Send a smaller",
        "one, or a link to the file.",
    ),
    "3.4": (
        "The message is larger than the other system takes. Send a smaller",
        "one, or a link to the file.",
    ),
    "4.4": (
        "No server was found that takes mail for this domain. Check the",
        "spelling of the part after the @.",
    ),
    "4.6": (
        "The message goes round in circles between servers. The postmaster",
        "has to mend that; send this message there.",
    ),
    "6.7": (
        "The other system cannot take addresses with such characters. Ask",
        "the person for another address.",
    ),
}

_BY_CLASS: dict[str, tuple[str, ...]] = {
    "1": ("Something is wrong with this address. Check its spelling.",),
    "2": ("The recipient's mailbox does not take this message.",),
    "4": ("The message could not be brought to the other system.",),
    "6": ("The other system cannot handle the form of this message.",),
    "7": (
        "The other system refuses this message as a matter of its rules.",
        "Sending it again unchanged will not help; the text above may say",
        "why, and the postmaster of the other system knows more.",
    ),
}

_EXPIRED = (
    "It was tried again and again, but the other system could not be",
    "reached or never took it. The address may be right: try again later,",
    "or reach the person in another way.",
)


_FORCED = (
    "The postmaster of this system ended the attempts. Ask there why, or",
    "reach the person in another way.",
)


def advice(outcome: Outcome, *, expired: bool, forced: bool = False) -> tuple[str, ...]:
    """Lines for a person; none if there is nothing helpful to say.

    expired: the failure was temporary, and time has run out; forced: an administrator said so.
    """
    if forced:
        return _FORCED
    if expired:
        return _EXPIRED
    kind, _, rest = outcome.reply.enhanced.partition(".")
    if kind not in ("4", "5"):
        return ()
    return _BY_CODE.get(rest) or _BY_CLASS.get(rest.partition(".")[0], ())
