"""From a parameter's expanded text to a typed value. ValueError says what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable

from resel_mta.config import values_net
from resel_mta.config.grammar import split_items
from resel_mta.config.listen import parse_listen
from resel_mta.config.mapspec import MapSpec, parse_map
from resel_mta.config.networks import parse_network_item
from resel_mta.config.parameters import Parameter
from resel_mta.config.tables import memory_table

Value = str | bool | int | tuple[str, ...]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SPACE_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PROTOCOL = re.compile(r"(!|>=|<=)?((?:SSLv[23]|TLSv1(?:\.[123])?))", re.IGNORECASE)
_TIME = re.compile(r"(\d+)\s*([smhdw]?)", re.IGNORECASE)
_SPACE = re.compile(r"(\d+)\s*([BKMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_value(parameter: Parameter, text: str) -> Value:
    """The value: bool for a flag, int for numbers, sizes (octets) and times (seconds), a tuple
    of items for lists, str for the rest."""
    convert = _CONVERT.get(parameter.type)
    return text if convert is None else convert(parameter, text)


def _flag(parameter: Parameter, text: str) -> Value:
    word = text.lower()
    if word not in ("yes", "no"):
        raise ValueError(f'"{text}" is not yes or no')
    return word == "yes"


def _in_range(parameter: Parameter, number: int, text: str) -> int:
    if number < parameter.low:
        raise ValueError(f'"{text}" is too low; the lowest is {parameter.low}')
    if parameter.high is not None and number > parameter.high:
        raise ValueError(f'"{text}" is too high; the highest is {parameter.high}')
    return number


def _number(parameter: Parameter, text: str) -> Value:
    if not (text.isascii() and text.isdigit()):
        what = "a number of octets" if parameter.type == "size" else "a whole number"
        raise ValueError(f'"{text}" is not {what}')
    return _in_range(parameter, int(text), text)


def _space(parameter: Parameter, text: str) -> Value:
    match = _SPACE.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a size: a number of octets, or one with K, M, G or T')
    return _in_range(parameter, int(match[1]) * _SPACE_UNITS[match[2].upper()], text)


def _time(parameter: Parameter, text: str) -> Value:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(
            f'"{text}" is not a time: a whole number and a unit (s, m, h, d, w; '
            f"without one: {parameter.unit})"
        )
    return _in_range(parameter, int(match[1]) * _SECONDS[match[2].lower() or parameter.unit], text)


def _directory(parameter: Parameter, text: str) -> Value:
    """Commands start in any folder: a relative path would be another one for each."""
    if text and not text.startswith("/"):
        raise ValueError(f'"{text}" is not an absolute path')
    if len(text) < parameter.low:
        raise ValueError("must not be empty")
    return text


def _choice(parameter: Parameter, text: str) -> Value:
    word = text.lower()
    if word not in parameter.words:
        allowed = ", ".join(word or "(empty)" for word in parameter.words)
        raise ValueError(f'"{text}" is not supported; allowed are: {allowed}')
    return word


def _choices(parameter: Parameter, text: str) -> Value:
    items = tuple(item.lower() for item in split_items(text))
    for item in items:
        if item not in parameter.words:
            raise ValueError(f'"{item}" is not one of: {", ".join(parameter.words)}')
    if not items and "" not in parameter.words:
        raise ValueError(f"is empty; allowed are: {', '.join(parameter.words)}")
    return items


def _code(parameter: Parameter, text: str) -> Value:
    if not re.fullmatch(r"[45][0-9][0-9]", text):
        raise ValueError(f'"{text}" is not a reply code from 400 to 599')
    return int(text)


def _template(parameter: Parameter, text: str) -> Value:
    if parameter.name == "luser_relay" and text[:1] in ("|", "/", ":"):
        raise ValueError(f'"{text}" is not supported; allowed are an address and @domain')
    return text


def _list(parameter: Parameter, text: str) -> Value:
    return tuple(split_items(text))


def _maps(parameter: Parameter, text: str) -> Value:
    items = tuple(split_items(text))
    for item in items:
        _check_map(parse_map(item))
    return items


def _check_map(spec: MapSpec) -> None:
    """What stands in main.cf itself. Files are `check`'s."""
    if spec.type == "inline":
        memory_table(spec, [])
    for part in spec.parts:
        _check_map(part)


def _domains(parameter: Parameter, text: str) -> Value:
    items = tuple(split_items(text))
    for item in items:
        bare = item.lstrip("!")
        if not bare:
            raise ValueError('"!" with nothing after it')
        if ":" in bare and bare[0] not in "/[":
            _check_map(parse_map(bare))
    return items


def _protocols(parameter: Parameter, text: str) -> Value:
    """``>=TLSv1.2``, or names to allow or, after "!", to leave out."""
    items = tuple(split_items(text))
    for item in items:
        match = _PROTOCOL.fullmatch(item)
        if match is None:
            raise ValueError(f'"{item}" is not a TLS protocol such as >=TLSv1.2 or !TLSv1.1')
        if "fixed" in parameter.words and (
            match[2].lower() == "tlsv1.3" or item.lower() in ("!tlsv1.2", "<tlsv1.2", "<=tlsv1.2")
        ):
            raise ValueError(f'"{item}" is not supported: TLSv1.2 and TLSv1.3 are used')
    return items


def _networks(parameter: Parameter, text: str) -> Value:
    items = tuple(split_items(text))
    for item in items:
        parse_network_item(item)
    return items


def _listen(parameter: Parameter, text: str) -> Value:
    items = tuple(split_items(text))
    for item in items:
        parse_listen(item)
    return items


_CONVERT: dict[str, Callable[[Parameter, str], Value]] = {
    "flag": _flag,
    "number": _number,
    "size": _number,
    "space": _space,
    "time": _time,
    "choice": _choice,
    "directory": _directory,
    "choices": _choices,
    "code": _code,
    "list": _list,
    "template": _template,
    "maps": _maps,
    "domains": _domains,
    "networks": _networks,
    "protocols": _protocols,
    "listen": _listen,
    "hostname": values_net.hostname,
    "ip": values_net.ip,
    "nameservers": values_net.nameservers,
    "nexthops": values_net.nexthops,
    "nexthoplist": values_net.nexthop_list,
    "port": values_net.port,
    "transport": values_net.transport,
}
