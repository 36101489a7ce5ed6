"""What recipients are beside mailboxes, as `mail.Recipient.via` keeps it: commands, files, and
aliases that are only waiting for their sender to be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """A command or a file in the place of an address: text is "|command" or "/file"; source is
    "alias", "forward" or the path of an included file; name: the alias, or whose .forward it is."""

    text: str
    source: str
    name: str

    def mark(self) -> str:
        """As the last step of `Recipient.via`. Raises ValueError for what cannot be one."""
        if "\n" in self.source + self.name + self.text or "\t" in self.source + self.name:
            raise ValueError("control characters in a target")
        return f":{self.source}\t{self.name}\t{self.text}"

    @staticmethod
    def last_of(via: Sequence[str]) -> LocalTarget | None:
        """The target that `Recipient.via` ends with, if any."""
        last = via[-1] if via else ""
        if not last.startswith(":"):
            return None
        source, name, text = last[1:].split("\t", 2)
        return LocalTarget(text, source, name)


_ANSWER = "=\t"
"""No address and no alias begins like this."""


def answer_mark(action: str) -> str:
    """As the last step of `Recipient.via`: for `mail.Recipient.answer`."""
    return _ANSWER + action


def answer_of(via: Sequence[str]) -> str:
    """The action of the answer mark that `Recipient.via` ends with, if any."""
    last = via[-1] if via else ""
    return last[len(_ANSWER) :] if last.startswith(_ANSWER) else ""


def forward_mark(user: str) -> str:
    """In `Recipient.via`: this user's .forward file was followed."""
    return f"~{user.lower()}"
