"""What ends a command other than OK."""

from __future__ import annotations


class Refused(Exception):
    """Answered with `status` ("NO" or "BAD"), the response code if any, and the text."""

    def __init__(self, status: str, text: str, code: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.code = code

    def response(self) -> bytes:
        """Without tag and CR LF."""
        code = f"[{self.code}] " if self.code else ""
        return f"{self.status} {code}{self.text}".encode("utf-8", "replace")


class End(Exception):
    """The session ends. said: in the BYE; "" where that has been said already."""

    def __init__(self, reason: str, said: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.said = reason if said is None else said
