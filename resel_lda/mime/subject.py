"""Base subjects (RFC 5256 §2.1): a subject without "Re:", "Fwd:", list tags and "(fwd)"."""

from __future__ import annotations

import re

from resel_lda.mime.fold import casemap

_BLOB = r"\[[^\[\]]*+\][ \t]*+"
_BLOBS = re.compile(_BLOB)
_LEADER = re.compile(rf"(?:re|fwd?)[ \t]*+(?:{_BLOB})?:[ \t]*+", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\r\n]+")
_FORWARD, _TRAILER = "[fwd:", "(fwd)"


def base_subject(subject: str) -> tuple[str, bool]:
    """(base subject in upper case, whether it is of a reply or a forward). Linear in its length:
    what goes is only moved past."""
    text = _SPACES.sub(" ", subject)
    start, end = 0, len(text)
    answer = False
    while True:
        end, trailed = _without_trailers(text, start, end)
        start, led = _without_leaders(text, start, end)
        answer = answer or trailed or led
        is_forward = end - start > len(_FORWARD) and text[end - 1] == "]"
        if not is_forward or text[start : start + len(_FORWARD)].lower() != _FORWARD:
            return casemap(text[start:end]), answer
        start, end = start + len(_FORWARD), end - 1
        answer = True


def _without_trailers(text: str, start: int, end: int) -> tuple[int, bool]:
    """(where the text ends without them, whether one of them was "(fwd)")."""
    answer = False
    while end > start:
        if text[end - 1] == " ":
            end -= 1
        elif text[max(end - len(_TRAILER), start) : end].lower() == _TRAILER:
            end, answer = end - len(_TRAILER), True
        else:
            break
    return end, answer


def _without_leaders(text: str, start: int, end: int) -> tuple[int, bool]:
    """(where the text starts without them, whether one of them was "re:" or the like)."""
    answer = False
    while True:
        while start < end and text[start] == " ":
            start += 1
        last, after = start, start
        while (blob := _BLOBS.match(text, after, end)) is not None:
            last, after = after, blob.end()
        found = _LEADER.match(text, after, end)
        if found is None:
            # List tags go only if something is left then.
            return (after if after < end else last), answer
        start, answer = found.end(), True
