"""The grammar of alias files, aliases(5): ``name: target, target`` with continuation lines.

A target is an address, ``|command``, ``/file`` or ``:include:/file``; in double quotes where it
holds space, commas or other marks. ``(text)`` is a comment, ``Name <address>`` is its address.
``\\user`` is the user's mailbox itself, whatever alias has that name.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from resel_mta.config.grammar import logical_lines
from resel_mta.config.problems import Problem

_PLAIN_LOCAL = re.compile(r"[^\s\x00-\x1f()<>\[\]:;@\\,\"]+")


class TargetKind(enum.Enum):
    """What a target of an alias is. MAILBOX: an address that is not looked up as an alias."""

    ADDRESS = "address"
    MAILBOX = "mailbox"
    COMMAND = "command"
    FILE = "file"
    INCLUDE = "include"


@dataclass(frozen=True, slots=True)
class Target:
    """value: the address (its local part quoted only where it must be; a domain only if one was
    written), the command line, or the path."""

    kind: TargetKind
    value: str

    @property
    def text(self) -> str:
        """As it is written in a file, without quotes."""
        return _MARKS.get(self.kind, "") + self.value


_MARKS = {TargetKind.MAILBOX: "\\", TargetKind.COMMAND: "|", TargetKind.INCLUDE: ":include:"}


def split_list(text: str) -> list[str]:
    """The items of a comma-separated list; commas in quotes, comments and brackets do not count."""
    items: list[str] = []
    start = depth = 0
    quoted = False
    position = 0
    while position < len(text):
        char = text[position]
        if char == "\\":
            position += 1
        elif char == '"' and not depth:
            quoted = not quoted
        elif not quoted and char == "(":
            depth += 1
        elif not quoted and char == ")" and depth:
            depth -= 1
        elif char in ",\n" and not quoted and not depth:
            items.append(text[start:position])
            start = position + 1
        position += 1
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()]


def read_target(item: str) -> Target:
    """One item of a list. Raises ValueError."""
    if item.startswith("\\"):
        targets = parse_targets(item[1:])
        if len(targets) == 1 and targets[0].kind is TargetKind.ADDRESS:
            return Target(TargetKind.MAILBOX, targets[0].value)
        raise ValueError(f"{item[:60]} is not a mailbox")
    targets = parse_targets(item)
    if len(targets) != 1:
        raise ValueError(f"{item[:60]} is not a target")
    return targets[0]


def read_targets(text: str) -> list[Target]:
    """The targets of an alias as `parse_aliases` gives it, of an included file or of a .forward
    file: separated by commas and line ends, lines that begin with "#" left out. Raises ValueError.
    """
    if "\n" in text:
        text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [read_target(item) for item in split_list(text)]


@dataclass(frozen=True, slots=True)
class Alias:
    """One alias. name: in lower case; value: its targets as written; line: its first one."""

    name: str
    value: str
    line: int


def parse_aliases(text: str, file: str) -> tuple[dict[str, str], list[Problem]]:
    """(name in lower case -> its targets as written, what is wrong with which line).

    The first of two equal names counts, as with postalias(1).
    """
    found, problems = list_aliases(text, file)
    return {alias.name: alias.value for alias in found}, problems


def list_aliases(text: str, file: str) -> tuple[list[Alias], list[Problem]]:
    """The aliases that count, in order, and what is wrong with which line."""
    found: dict[str, Alias] = {}
    problems: list[Problem] = []
    for first, _, line in logical_lines(text):
        where = f"{file}:{first}"
        try:
            name, value = _split_name(line)
            targets = read_targets(value)
        except ValueError as error:
            problems.append(Problem(where, "", str(error)))
            continue
        if not targets:
            problems.append(Problem(where, "", f'"{name}" has no target'))
            continue
        if name in found:
            text = (
                f'"{name}" is here a second time; the first one, in line {found[name].line}, counts'
            )
            problems.append(Problem(where, "", text, is_error=False))
            continue
        problems += _warnings(where, name, targets)
        found[name] = Alias(name, value, first)
    return list(found.values()), problems


def parse_targets(value: str) -> list[Target]:
    """The targets of an alias, or of a line of an ``:include:`` file. Raises ValueError."""
    return [_target(words) for words in _split_commas(_tokens(value)) if words]


def _warnings(where: str, name: str, targets: list[Target]) -> list[Problem]:
    return [
        Problem(
            where,
            "",
            f'"{name}": the target {target.value} holds a space; targets are separated by commas',
            is_error=False,
        )
        for target in targets
        if target.kind is TargetKind.ADDRESS and " " in target.value
    ]


@dataclass(frozen=True, slots=True)
class _Token:
    """text: as meant (quotes and backslashes taken off). quoted: it stood in double quotes.
    spaced: there was space before it."""

    text: str
    quoted: bool = False
    spaced: bool = False


def _tokens(text: str) -> list[_Token]:
    """Words, quoted strings and the marks ``, : < > @``; comments are left out."""
    tokens: list[_Token] = []
    position = 0
    spaced = False
    while position < len(text):
        char = text[position]
        if char.isspace():
            spaced = True
            position += 1
            continue
        if char == "(":
            position = _skip_comment(text, position)
            spaced = True
            continue
        if char == '"':
            word, position = _quoted(text, position)
            tokens.append(_Token(word, quoted=True, spaced=spaced))
        elif char in ",:<>@":
            tokens.append(_Token(char, spaced=spaced))
            position += 1
        else:
            word, position = _word(text, position)
            tokens.append(_Token(word, spaced=spaced))
        spaced = False
    return tokens


def _quoted(text: str, start: int) -> tuple[str, int]:
    out: list[str] = []
    position = start + 1
    while position < len(text):
        char = text[position]
        if char == '"':
            return "".join(out), position + 1
        if char == "\\" and position + 1 < len(text):
            position += 1
            char = text[position]
        out.append(char)
        position += 1
    raise ValueError(f"a quote is not closed: {text[start:]}")


def _word(text: str, start: int) -> tuple[str, int]:
    out: list[str] = []
    position = start
    while position < len(text) and not text[position].isspace() and text[position] not in ',:<>@"(':
        if text[position] == "\\" and position + 1 < len(text):
            position += 1
        out.append(text[position])
        position += 1
    return "".join(out), position


def _skip_comment(text: str, start: int) -> int:
    depth = 0
    position = start
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] == "(":
            depth += 1
        elif text[position] == ")":
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    raise ValueError(f"a comment is not closed: {text[start:]}")


def _split_commas(tokens: list[_Token]) -> list[list[_Token]]:
    groups: list[list[_Token]] = [[]]
    for token in tokens:
        if token.text == "," and not token.quoted:
            groups.append([])
        else:
            groups[-1].append(token)
    return groups


def _split_name(line: str) -> tuple[str, str]:
    """(name in lower case, the text after the colon)."""
    colon = _colon(line)
    if colon < 0:
        raise ValueError(f'"name: target" was expected, not "{line.strip()}"')
    words = _tokens(line[:colon])
    name = _joined(words).lower()
    if not name:
        raise ValueError('a name was expected before ":"')
    if any(word.text in ("@", "<", ">") and not word.quoted for word in words):
        raise ValueError(f'"{line[:colon].strip()}": the name of an alias has no domain')
    value = line[colon + 1 :].strip()
    if not value:
        raise ValueError(f'"{name}" has no target')
    return name, value


def _colon(line: str) -> int:
    """Where the name ends: the first colon outside quotes and comments, or -1."""
    position = 0
    while position < len(line):
        char = line[position]
        if char == ":":
            return position
        if char == '"':
            _, position = _quoted(line, position)
        elif char == "(":
            position = _skip_comment(line, position)
        else:
            position += 2 if char == "\\" else 1
    return -1


def _joined(words: list[_Token]) -> str:
    """The words with single spaces where there were any."""
    text = "".join((" " if word.spaced else "") + word.text for word in words)
    return text.strip()


def _target(words: list[_Token]) -> Target:
    text = _joined(words)
    if text.startswith("|"):
        command = text[1:].strip()
        if not command:
            raise ValueError('"|" without a command')
        return Target(TargetKind.COMMAND, command)
    if text.lower().startswith(":include:"):
        path = text[9:].strip()
        if not path.startswith("/"):
            raise ValueError(f'"{text}": the path of an included file must be absolute')
        return Target(TargetKind.INCLUDE, path)
    if text.startswith("/"):
        return Target(TargetKind.FILE, text)
    return Target(TargetKind.ADDRESS, _address(words))


def _address(words: list[_Token]) -> str:
    marks = [word.text for word in words if not word.quoted]
    if "<" in marks or ">" in marks:
        opening = next((i for i, w in enumerate(words) if w.text == "<" and not w.quoted), None)
        if opening is None or words[-1].text != ">" or words[-1].quoted:
            raise ValueError(f'"{_joined(words)}": "<" and ">" do not match')
        words = words[opening + 1 : -1]
    at = max((i for i, w in enumerate(words) if w.text == "@" and not w.quoted), default=-1)
    if at < 0:
        # A whole address may stand in quotes: "user@example.org".
        local, at_sign, domain = _joined(words).rpartition("@")
        if not at_sign:
            local, domain = domain, ""
    else:
        local, domain = _joined(words[:at]), _joined(words[at + 1 :]).replace(" ", "")
    if not local or (at >= 0 and not domain):
        raise ValueError(f'"{_joined(words)}" is not an address')
    if not _PLAIN_LOCAL.fullmatch(local):
        local = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{local}@{domain}" if domain else local
