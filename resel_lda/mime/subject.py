"""Base subjects (RFC 5256 §2.1): a subject without "Re:", "Fwd:", list tags and "(fwd)"."""

from __future__ import annotations

import re

from resel_lda.mime.fold import casemap

_BLOB = r"\[[^\[\]]*\][ \t]*"
_LEADER = re.compile(rf"(?:{_BLOB})*(?:re|fwd?)[ \t]*(?:{_BLOB})?:[ \t]*|[ \t]+", re.IGNORECASE)
_FIRST_BLOB = re.compile(_BLOB)
_TRAILER = re.compile(r"(?:\(fwd\)|[ \t]+)\Z", re.IGNORECASE)
_SPACES = re.compile(r"[ \t]+")
_FORWARD = "[fwd:"


def base_subject(subject: str) -> tuple[str, bool]:
    """(base subject in upper case, whether it is of a reply or a forward)."""
    text = _SPACES.sub(" ", subject)
    answer = False
    while True:
        text, trailed = _without_trailers(text)
        text, led = _without_leaders(text)
        answer = answer or trailed or led
        if text[:5].lower() == _FORWARD and text.endswith("]"):
            text = text[5:-1]
            answer = True
            continue
        return casemap(text), answer


def _without_trailers(text: str) -> tuple[str, bool]:
    answer = False
    while True:
        if text.endswith(" "):
            text = text.rstrip(" ")
        elif text[-5:].lower() == "(fwd)":
            text, answer = text[:-5], True
        else:
            return text, answer


def _without_leaders(text: str) -> tuple[str, bool]:
    answer = False
    while True:
        found = _LEADER.match(text)
        if found is not None:
            answer = answer or not found[0].isspace()
            text = text[found.end() :]
            continue
        blob = _FIRST_BLOB.match(text)
        # A list tag goes only if something is left then.
        if blob is None or blob.end() == len(text):
            return text, answer
        text = text[blob.end() :]
