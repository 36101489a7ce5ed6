"""Look-up tables in memory, and the grammars of their files (postmap(1), regexp_table(5),
pcre_table(5), cidr_table(5)).

A table answers `get(key)`: the value, or None. Problems with a line carry its number; a table
with an error among them is not used.
"""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from resel_mta.config.aliases import parse_aliases
from resel_mta.config.grammar import logical_lines, split_items, unbrace
from resel_mta.config.mapspec import MapSpec
from resel_mta.config.networks import pack, parse_network
from resel_mta.config.problems import Problem


class Table(Protocol):
    """blocks: whether `get` may wait for something outside (then call it in a thread)."""

    blocks: bool

    def get(self, key: str) -> str | None:
        """Raises LookupError when the table cannot answer for now."""
        ...


class KeyTable:
    """Keys in lower case, as Postfix folds them for hash, btree, lmdb and texthash."""

    __slots__ = ("_values",)
    blocks = False

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def get(self, key: str) -> str | None:
        found = self._values.get(key)
        return self._values.get(key.lower()) if found is None else found

    def items(self) -> list[tuple[str, str]]:
        """All keys and values."""
        return list(self._values.items())


class StaticTable:
    """static: the same value for every key."""

    __slots__ = ("_value",)
    blocks = False

    def __init__(self, value: str) -> None:
        self._value = value

    def get(self, key: str) -> str | None:
        return self._value


class FailTable:
    """fail: every look-up fails for now. Also stands for a table that cannot be read."""

    __slots__ = ("reason",)
    blocks = False

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def get(self, key: str) -> str | None:
        raise LookupError(self.reason)


class UnixTable:
    """unix:passwd.byname and unix:group.byname: the line of the system's database."""

    __slots__ = ("_group",)
    blocks = True

    def __init__(self, name: str) -> None:
        self._group = name == "group.byname"

    def get(self, key: str) -> str | None:
        try:
            if self._group:
                entry = grp.getgrnam(key)
                return f"{entry.gr_name}:{entry.gr_passwd}:{entry.gr_gid}:{','.join(entry.gr_mem)}"
            return ":".join(str(part) for part in pwd.getpwnam(key))
        except (KeyError, ValueError):
            return None


class PipeTable:
    """pipemap: each table's result is the next one's key."""

    __slots__ = ("_parts", "blocks")

    def __init__(self, parts: list[Table]) -> None:
        self._parts = parts
        self.blocks = any(part.blocks for part in parts)

    def get(self, key: str) -> str | None:
        value = key
        for part in self._parts:
            found = part.get(value)
            if found is None:
                return None
            value = found
        return value


class UnionTable:
    """unionmap: all results, joined by commas."""

    __slots__ = ("_parts", "blocks")

    def __init__(self, parts: list[Table]) -> None:
        self._parts = parts
        self.blocks = any(part.blocks for part in parts)

    def get(self, key: str) -> str | None:
        found = [value for part in self._parts if (value := part.get(key)) is not None]
        return ",".join(found) if found else None


@dataclass(slots=True)
class Rule:
    """One rule of a regexp, pcre or cidr table; `inner` holds the rules between if and endif."""

    matches: Callable[[str], re.Match[str] | bool | None]
    negated: bool
    result: str = ""
    inner: list[Rule] = field(default_factory=list)
    is_block: bool = False


class RuleTable:
    """The first rule that matches gives the result."""

    __slots__ = ("_rules",)
    blocks = False

    def __init__(self, rules: list[Rule]) -> None:
        self._rules = rules

    def get(self, key: str) -> str | None:
        return _first_match(self._rules, key)


def _first_match(rules: list[Rule], key: str) -> str | None:
    for rule in rules:
        match = rule.matches(key)
        if bool(match) is rule.negated:
            continue
        if rule.is_block:
            found = _first_match(rule.inner, key)
            if found is not None:
                return found
            continue
        return _substitute(rule.result, match) if isinstance(match, re.Match) else rule.result
    return None


_REFERENCE = re.compile(r"\$(?:(\$)|(\d+)|\{(\d+)\}|\((\d+)\))")


def _substitute(result: str, match: re.Match[str]) -> str:
    def value(reference: re.Match[str]) -> str:
        if reference[1]:
            return "$"
        number = int(reference[2] or reference[3] or reference[4])
        return match[number] or ""

    return _REFERENCE.sub(value, result) if "$" in result else result


def parse_table(
    spec: MapSpec, text: str, file: str, *, aliases: bool = False
) -> tuple[Table, list[Problem]]:
    """A file table from its text. aliases: it has the grammar of aliases(5)."""
    if spec.type in ("regexp", "pcre"):
        return _parse_rules(text, file, _regexp_rule)
    if spec.type == "cidr":
        return _parse_rules(text, file, _cidr_rule)
    if aliases:
        values, problems = parse_aliases(text, file)
        return KeyTable(values), problems
    return _parse_keys(text, file)


def memory_table(spec: MapSpec, parts: list[Table]) -> Table:
    """A table that needs no file. parts: the tables of a pipemap or unionmap. Raises ValueError."""
    match spec.type:
        case "static":
            return StaticTable(unbrace(spec.name))
        case "inline":
            return KeyTable(_inline(spec.name))
        case "unix":
            return UnixTable(spec.name)
        case "pipemap":
            return PipeTable(parts)
        case "unionmap":
            return UnionTable(parts)
    return FailTable(f"{spec}: look-ups fail as configured")


def _inline(text: str) -> dict[str, str]:
    if not (text.startswith("{") and text.endswith("}")):
        raise ValueError(f'"inline:{text}": expected inline:{{key=value, {{key=text with space}}}}')
    values: dict[str, str] = {}
    for item in split_items(text[1:-1]):
        key, equals, value = unbrace(item).partition("=")
        if not equals or not key.strip():
            raise ValueError(f'"inline:{text}": "{item}" is not key=value')
        values[key.strip().lower()] = value.strip()
    if not values:
        raise ValueError(f'"inline:{text}" is empty')
    return values


def _parse_keys(text: str, file: str) -> tuple[Table, list[Problem]]:
    values: dict[str, str] = {}
    problems: list[Problem] = []
    for first, _, line in logical_lines(text):
        where = f"{file}:{first}"
        if line[0].isspace():
            problems.append(Problem(where, "", "starts with space but continues nothing"))
            continue
        key, value = _split_key(line)
        if not value:
            problems.append(Problem(where, "", f'"key value" was expected, not "{line}"'))
            continue
        key = key.lower()
        if key in values:
            text = f'"{key}" is here a second time; the first one counts'
            problems.append(Problem(where, "", text, is_error=False))
            continue
        if key.endswith(":"):
            text = f'"{key}" ends in a colon; is this an alias file?'
            problems.append(Problem(where, "", text, is_error=False))
        values[key] = value
    return KeyTable(values), problems


def _split_key(line: str) -> tuple[str, str]:
    """The key up to the first space outside double quotes, and the value. As with postmap(1) the
    quotes belong to the key: ``"a b"@example.org`` is looked up with them."""
    quoted = False
    position = 0
    while position < len(line) and (quoted or not line[position].isspace()):
        if line[position] == '"':
            quoted = not quoted
        position += 2 if line[position] == "\\" else 1
    return line[:position], line[position:].strip()


def _parse_rules(
    text: str, file: str, parse: Callable[[str, bool], Rule]
) -> tuple[Table, list[Problem]]:
    """Rules with if and endif. parse: (line, whether it opens a block) -> rule, or ValueError."""
    top: list[Rule] = []
    open_blocks = [top]
    problems: list[Problem] = []
    for first, _, line in logical_lines(text):
        where = f"{file}:{first}"
        bare = line.strip()
        word = bare.lower()
        try:
            if word == "endif":
                if len(open_blocks) == 1:
                    raise ValueError("endif without if")
                open_blocks.pop()
            elif re.match(r"if[\s/!]", word):
                rule = parse(bare[2:].strip(), True)
                open_blocks[-1].append(rule)
                open_blocks.append(rule.inner)
            else:
                open_blocks[-1].append(parse(bare, False))
        except ValueError as error:
            problems.append(Problem(where, "", str(error)))
    if len(open_blocks) > 1:
        problems.append(Problem(file, "", "if without endif"))
    return RuleTable(top), problems


_POSIX_CLASSES = {
    "[:alpha:]": "a-zA-Z",
    "[:digit:]": "0-9",
    "[:alnum:]": "a-zA-Z0-9",
    "[:upper:]": "A-Z",
    "[:lower:]": "a-z",
    "[:space:]": r"\s",
    "[:blank:]": r" \t",
    "[:punct:]": r"!-/:-@\[-`{-~",
    "[:xdigit:]": "0-9a-fA-F",
    "[:cntrl:]": r"\x00-\x1f\x7f",
    "[:print:]": r" -~",
    "[:graph:]": r"!-~",
}


def _regexp_rule(line: str, is_block: bool) -> Rule:
    """``/pattern/flags result``; case is ignored unless flag i turns that off."""
    bare = line.lstrip("!")
    negated = (len(line) - len(bare)) % 2 == 1
    bare = bare.lstrip()
    if not bare or bare[0].isalnum() or bare[0].isspace():
        raise ValueError(f'"/pattern/flags result" was expected, not "{line}"')
    end = 1
    while end < len(bare) and bare[end] != bare[0]:
        end += 2 if bare[end] == "\\" else 1
    if end >= len(bare):
        raise ValueError(f'the pattern is not closed by "{bare[0]}": {line}')
    pattern = bare[1:end].replace("\\" + bare[0], bare[0]) if bare[0] != "\\" else bare[1:end]
    flags_text, _, result = bare[end + 1 :].partition(" ")
    if "\t" in flags_text:
        flags_text, _, result = bare[end + 1 :].partition("\t")
    flags = re.IGNORECASE | re.DOTALL
    for letter in flags_text:
        change = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}.get(
            letter
        )
        if change is None:
            raise ValueError(f'flag "{letter}" is not supported; supported are: i, m, s, x')
        flags ^= change
    for name, characters in _POSIX_CLASSES.items():
        pattern = pattern.replace(name, characters)
    try:
        compiled = re.compile(pattern, flags)
    except re.error as error:
        raise ValueError(f'pattern "{pattern}": {error}') from None
    result = result.strip()
    if not is_block:
        _check_result(line, result, 0 if negated else compiled.groups)
    return Rule(compiled.search, negated, result, is_block=is_block)


def _check_result(line: str, result: str, groups: int) -> None:
    if not result:
        raise ValueError(f'a result is missing after "{line}"')
    for reference in _REFERENCE.finditer(result):
        number = reference[2] or reference[3] or reference[4]
        if number is not None and not 1 <= int(number) <= groups:
            raise ValueError(f'"{reference.group()}": the pattern has {groups} groups')


def _cidr_rule(line: str, is_block: bool) -> Rule:
    """``network result``."""
    bare = line.lstrip("!").lstrip()
    negated = (len(line) - len(line.lstrip("!"))) % 2 == 1
    parts = bare.split(None, 1)
    if not parts:
        raise ValueError(f'"network result" was expected, not "{line}"')
    size, value, mask = parse_network(parts[0])
    result = parts[1].strip() if len(parts) == 2 else ""
    if not result and not is_block:
        raise ValueError(f'a result is missing after "{line}"')

    def matches(key: str) -> bool:
        # What is no address, or one of the other family, is outside of "!network" too.
        packed = pack(key)
        if packed is None or len(packed) != size:
            return False
        return (int.from_bytes(packed) & mask == value) is not negated

    return Rule(matches, False, result, is_block=is_block)
