"""What searches have found out about messages' text, which never changes."""

from __future__ import annotations

from collections.abc import Iterable

from resel_lda.mailbox import TextAnswers

# Searches that are remembered, and answers in all.
_MOST = 16
_MOST_ANSWERS = 100_000


class Needles:
    """Of one folder. A client asks the same again for each page that it shows, and with one letter
    more for each that is typed."""

    def __init__(self) -> None:
        # The one used last is the last.
        self._kept: dict[tuple[str, bool], TextAnswers] = {}

    def answers(self, needle: str, with_header: bool) -> TextAnswers:
        """What is known, to be added to. needle: folded."""
        key = needle, with_header
        found = self._kept.pop(key, None)
        if found is None:
            found = TextAnswers()
            for (other, headers_too), answers in self._kept.items():
                # A text without a part of the needle is without the needle; one with more than
                # the needle has the needle. TEXT looks at what BODY does, and at the header.
                if other in needle and (headers_too or not with_header):
                    found.take(answers, False)
                if needle in other and (with_header or not headers_too):
                    found.take(answers, True)
        self._kept[key] = found
        answers_kept = sum(len(answers) for answers in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > _MOST or answers_kept > _MOST_ANSWERS):
            answers_kept -= len(self._kept.pop(next(iter(self._kept))))
        return found

    def forget(self, uids: Iterable[int]) -> None:
        """Expunged messages."""
        for answers in self._kept.values():
            for uid in uids:
                answers.pop(uid, None)
