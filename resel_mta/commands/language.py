"""In which language a command speaks to a person."""

from __future__ import annotations

from collections.abc import Mapping

#: (English, French) of a sentence, with {names} for what is put in.
Text = tuple[str, str]


def is_french(environ: Mapping[str, str]) -> bool:
    """By LC_ALL, LC_MESSAGES or LANG, the first that is set (setlocale(3)); else English."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environ.get(name):
            return value.lower().startswith("fr")
    return False


class Speaker:
    """Says sentences in one language."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.french = is_french(environ)

    def say(self, text: Text, **values: object) -> str:
        """The sentence with the values in it."""
        return text[1 if self.french else 0].format(**values)
