"""What a log line says, as fields of the Elastic Common Schema (ECS 8.11).

The operator's lines are the one place where an event is put into words, so its fields are read
from the words. What ECS has no name for is below the name of the module: `postfix.dsn`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

VERSION = "8.11.0"
Record = dict[str, Any]

# "client=", "from", "rip=" and the like: a name and an address, and perhaps a port.
_PEER = re.compile(r"(\S+?)\[([0-9a-fA-F.:]+)\](?::(\d+))?")
# One of "to=<a, b>", "size=12", "status=sent (…)": values in brackets may have commas.
_FIELD = re.compile(r"(\w+)=(<[^>]*>|[^,\s;]*)")
# What a session after log-in begins its lines with: imap(user)<pid><session>.
_SESSION = re.compile(r"\w+\(([^)]*)\)<\d+><([^>]*)>: ")
_REPLY = re.compile(r"(\d{3}) (\d\.\d+\.\d+) ")
_STATUS = re.compile(r"status=(\w+) \((.*)\)$")
_OUTCOMES = {"sent": "success", "expanded": "success", "bounced": "failure", "deferred": "failure"}
#: Fields that go below the module's name: words, and numbers.
_WORDS = re.compile("orig_to|relay|delays|dsn|status|helo|method|session")
_NUMBERS = re.compile("size|nrcpt|uid|mpid")
#: ECS has two names for each end, and asks for both.
_CLIENT, _SERVER = ("client.ip", "source.ip"), ("server.ip", "destination.ip")
_NEXT_HOP = ("destination.ip",)


def fields_of(module: str, service: str, text: str) -> Record:
    """Fields of one line. module: what the line's name begins with, such as "postfix".

    text: the line without its head and queue id. A line that is not understood gives none: its
    words are in `message` in any case.
    """
    found: Record = {}
    pairs = _pairs(text)
    if text.startswith(("reject: ", "warning: ")):
        found.update(_problem(module, text))
    elif text.startswith(("connect from ", "disconnect from ", "lost connection ", "timeout ")):
        found.update(_connection(text))
    elif service.endswith("-login"):
        found.update(_login(text, pairs))
    elif "=" in text:
        found.update(_message(text, pairs))
    elif text == "removed":
        found.update(_event("message-removed", ["email"], ["info"]))
    session = _SESSION.match(text)
    if session is not None:
        pairs = {"user": session[1], "session": session[2]}
    _add_own(found, module, pairs)
    _add_addresses(found, pairs)
    if f"{module}.relay" in found:
        found.update(_next_hop(found[f"{module}.relay"], pairs))
    return found


def _pairs(text: str) -> dict[str, str]:
    """name=value of a line, brackets of addresses taken off. The first of a name counts: what a
    peer said comes last."""
    if text.startswith("to=<"):
        text = text.partition(" (")[0]
    elif text.startswith("reject: "):
        text = text.partition(": ")[2].partition("; ")[2]
    pairs: dict[str, str] = {}
    for name, value in _FIELD.findall(text):
        pairs.setdefault(name, value.strip("<>"))
    return pairs


def _event(action: str, category: list[str], kind: list[str], outcome: str = "") -> Record:
    record: Record = {"event.action": action, "event.category": category, "event.type": kind}
    if outcome:
        record["event.outcome"] = outcome
    return record


def _problem(module: str, text: str) -> Record:
    if text.startswith("reject: "):
        record = _event("command-rejected", ["network"], ["denied"], "failure")
        record |= _client(text.partition(" from ")[2])
        reply = _REPLY.search(text)
        if reply is not None:
            record[f"{module}.reply"] = int(reply[1])
            record[f"{module}.dsn"] = reply[2]
            record["event.reason"] = text[reply.end() :].partition("; from=")[0].split(";", 1)[0]
        return record
    if " authentication failed" in text:
        record = _event("authentication", ["authentication"], ["start"], "failure")
        return record | _client(text.removeprefix("warning: "))
    return {}


def _connection(text: str) -> Record:
    start = text.startswith("connect ")
    action = "client-connected" if start else "client-disconnected"
    if text.startswith(("lost ", "timeout ")):
        action = "client-lost"
    record = _event(action, ["network"], ["connection", "start" if start else "end"])
    return record | _client(text.rpartition(" from ")[2])


def _login(text: str, pairs: dict[str, str]) -> Record:
    if text.startswith("Login: "):
        record = _event("authentication", ["authentication"], ["start"], "success")
    elif "(auth failed" in text:
        record = _event("authentication", ["authentication"], ["start"], "failure")
    else:
        record = _event("client-disconnected", ["network"], ["connection", "end"])
    return (
        record | _address(_CLIENT, pairs.get("rip", "")) | _address(_SERVER, pairs.get("lip", ""))
    )


def _message(text: str, pairs: dict[str, str]) -> Record:
    if text.startswith("client="):
        return _event("message-received", ["email"], ["info"]) | _client(text[len("client=") :])
    if text.startswith("message-id="):
        record = _event("message-identified", ["email"], ["info"])
        return record | {"email.message_id": text.removeprefix("message-id=").strip("<>")}
    if text.startswith("uid="):
        return _event("message-received", ["email"], ["info"])
    if text.startswith("from=<") and "nrcpt=" in text:
        return _event("message-queued", ["email"], ["info"])
    status = _STATUS.search(text)
    if text.startswith("to=<") and status is not None:
        record = _event(f"message-{status[1]}", ["email"], ["info"])
        record["event.outcome"] = _OUTCOMES.get(status[1], "unknown")
        record["event.reason"] = status[2]
        return record
    return {}


def _next_hop(hop: str, pairs: dict[str, str]) -> Record:
    record: Record = {}
    peer = _PEER.fullmatch(hop)
    if peer is not None:
        record = {"destination.domain": peer[1]} | _address(_NEXT_HOP, peer[2])
        if peer[3]:
            record["destination.port"] = int(peer[3])
    try:
        record["event.duration"] = round(float(pairs["delay"]) * 1e9)
    except (KeyError, ValueError):
        return record
    return record


def _client(text: str) -> Record:
    """Of "name[address]…"."""
    peer = _PEER.match(text)
    if peer is None:
        return {}
    record = _address(_CLIENT, peer[2])
    if record and peer[1] != "unknown":
        record["client.domain"] = peer[1]
    return record


def _address(names: tuple[str, ...], text: str) -> Record:
    try:
        address = str(ipaddress.ip_address(text))
    except ValueError:
        return {}
    return dict.fromkeys(names, address)


def _add_own(found: Record, module: str, pairs: dict[str, str]) -> None:
    for name, value in pairs.items():
        if value and _WORDS.fullmatch(name):
            found[f"{module}.{name}"] = value
        elif value.isdecimal() and _NUMBERS.fullmatch(name):
            found[f"{module}.{name}"] = int(value)


def _add_addresses(found: Record, pairs: dict[str, str]) -> None:
    if pairs.get("from"):
        found["email.sender.address"] = pairs["from"]
    if pairs.get("to"):
        found["email.to.address"] = [pairs["to"]]
    user = pairs.get("sasl_username") or pairs.get("user")
    if user:
        found["user.name"] = user
    if pairs.get("proto") in ("SMTP", "ESMTP", "LMTP"):
        found["network.protocol"] = "lmtp" if pairs["proto"] == "LMTP" else "smtp"
