"""Why a message is in the queue, in plain words: what `resel-queue why` says.

`Facts` is what is known; `tell` makes sentences of it. Both are pure.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from resel_mta.queue.meanings import SUSPENDED, meaning
from resel_mta.queue.selection import host_of_site

WIDTH = 78
NAMED = 3
"""Recipients, and other messages, that are named before the rest is only counted."""


@dataclass(frozen=True, slots=True)
class HostState:
    """What the scheduler knows of a next hop.

    suspended_until: it is down, and nothing is tried before; 0 if it is not. running, limit:
    deliveries to it now, and how many there may be. in_line: recipients that wait their turn.
    """

    suspended_until: float = 0.0
    running: int = 0
    limit: int = 0
    in_line: int = 0


@dataclass(frozen=True, slots=True)
class RecipientFacts:
    """A recipient that is not done.

    transport, nexthop: where it goes by the configuration of now; "" if that cannot be told.
    others: messages that wait for the same host, oldest first.
    """

    address: str
    orig_to: str
    attempts: int
    next_attempt: float
    reason: str
    relay: str
    waits_for: str
    transport: str = ""
    nexthop: str = ""
    host: HostState = HostState()
    others: tuple[str, ...] = ()

    @property
    def host_name(self) -> str:
        """The host that it waits for, as a person calls it; "" for a mailbox of this machine."""
        if self.waits_for and self.transport != "local":
            return host_of_site(self.waits_for)
        if self.relay.partition("[")[0] not in ("", "none", "local", "virtual"):
            return self.relay.partition("[")[0]
        if self.transport in ("", "local", "virtual", "error", "discard", "expand"):
            return ""
        return host_of_site(f":{self.nexthop}")


@dataclass(frozen=True, slots=True)
class Facts:
    """A message.

    queue: as in `door.Entry`. now: when this was found out. expires: when it is given up.
    deleted, restorable: since when it is in the trash, and until when it stays there. active_since:
    when its delivery began, for one that is active. running: whether the daemon runs. Times in
    seconds since the epoch, 0 where there is none.
    """

    queue_id: str
    queue: str
    arrival: float
    size: int
    sender: str
    subject: str
    now: float
    expires: float
    next_attempt: float
    deleted: float
    restorable: float
    active_since: float
    running: bool
    recipients: tuple[RecipientFacts, ...]


def facts_from_row(row: Mapping[str, Any]) -> Facts:
    """From `dataclasses.asdict`, after its way through JSON."""
    recipients = tuple(
        RecipientFacts(
            **{**each, "host": HostState(**each["host"]), "others": tuple(each["others"])}
        )
        for each in row["recipients"]
    )
    return Facts(**{**row, "recipients": recipients})


def tell(facts: Facts, command: str = "resel-queue") -> Iterator[str]:
    """Lines. command: how the reader calls this program, for what to type."""
    yield from _head(facts)
    for group in _groups(facts.recipients):
        yield ""
        yield from _recipients(facts, group)
    if end := _end(facts):
        yield ""
        yield from _wrap(end)
    yield ""
    yield from _commands(facts, command)


def _head(facts: Facts) -> Iterator[str]:
    sender = f"<{facts.sender}>" if facts.sender else "<> (a notification)"
    size = _size(facts.size)
    arrived = f"arrived {_when(facts.arrival, facts.now)}, {_span(facts.now - facts.arrival)} ago"
    yield f"{facts.queue_id}: {size} from {sender}, {arrived}."
    if facts.subject:
        yield f"Subject: {textwrap.shorten(facts.subject, WIDTH - 9, placeholder=' …')}"
    yield from _wrap(_state(facts))


def _state(facts: Facts) -> str:
    match facts.queue:
        case "hold":
            return "It is on hold: nothing is tried until somebody releases it."
        case "corrupt":
            return (
                "Its content is damaged: it is not tried, and what there is of it lies in the "
                "folder corrupt of queue_directory. The log says what is wrong with it."
            )
        case "trash":
            ago = f"{_span(facts.now - facts.deleted)} ago"
            until = _when(facts.restorable, facts.now).removeprefix("on ")
            return f"It was deleted {ago}, and can be brought back until {until}."
        case "active":
            span = _span(facts.now - facts.active_since)
            return (
                f"It is in delivery{f' for {span} now' if facts.active_since else ''}: an attempt "
                "runs, or it waits for its turn."
            )
        case _ if not facts.running:
            return "The mail system is down: it is tried when that is started."
        case "incoming":
            return "It is due now, and will be tried as soon as there is room for it."
        case _:
            return "It waits for its next attempt."


def _groups(recipients: Sequence[RecipientFacts]) -> list[list[RecipientFacts]]:
    """Recipients of whom the same is to be told."""
    groups: dict[tuple[str, str, str, str], list[RecipientFacts]] = {}
    for each in recipients:
        key = (each.reason, each.relay, each.host_name, each.transport)
        groups.setdefault(key, []).append(each)
    return list(groups.values())


def _recipients(facts: Facts, group: Sequence[RecipientFacts]) -> Iterator[str]:
    names = [
        f"<{each.address}>" + (f" (for <{each.orig_to}>)" if _was_other(each) else "")
        for each in group[:NAMED]
    ]
    more = len(group) - NAMED
    yield from _wrap(f"To {', '.join(names)}{_and_others(more)}:")
    first = min(group, key=lambda each: each.next_attempt)
    yield from _wrap(_history(first), "  ")
    if first.reason:
        yield from _wrap(first.reason, "    ")
        if plain := meaning(first.reason):
            yield from _wrap(plain, "  ")
    if facts.queue not in ("hold", "corrupt", "trash"):
        yield from _wrap(_future(facts, first), "  ")
    if first.others:
        yield from _wrap(_others(first), "  ")


def _and_others(count: int) -> str:
    if count <= 0:
        return ""
    return " and 1 other" if count == 1 else f" and {count} others"


def _was_other(recipient: RecipientFacts) -> bool:
    return bool(recipient.orig_to) and recipient.orig_to.lower() != recipient.address.lower()


def _history(recipient: RecipientFacts) -> str:
    where = f" Mail for it goes to {recipient.host_name}." if recipient.host_name else ""
    times = "once" if recipient.attempts == 1 else f"{recipient.attempts} times"
    by = recipient.relay
    if by in ("", "none") and recipient.reason.startswith(SUSPENDED):
        before = f"Tried {times}, but not the last time" if recipient.attempts else "Not tried yet"
        return f"{before}, since other mail found the host down:"
    if not recipient.attempts:
        return f"Not tried yet.{where}"
    if not recipient.reason:
        return f"Tried {times}.{where}"
    if by in ("", "none"):
        return f"Tried {times}, at last without reaching a server:"
    return f"Tried {times}, at last with {by}:"


def _future(facts: Facts, recipient: RecipientFacts) -> str:
    host = recipient.host
    if facts.queue == "active" and host.running >= max(host.limit, 1):
        return (
            f"{host.running} deliveries to {recipient.host_name or 'this mailbox'} run now, as many "
            f"as there may be; {host.in_line} recipients are in line."
        )
    if facts.queue == "active":
        return ""
    text = f"Next attempt: {_at(recipient.next_attempt, facts.now)}."
    if not facts.running:
        text = f"Next attempt: {_at(recipient.next_attempt, facts.now)}, if the daemon runs then."
    if host.suspended_until > facts.now:
        text += (
            f" {recipient.host_name or 'The next hop'} counts as down; it is looked for again "
            f"{_at(host.suspended_until, facts.now)}, and once it answers, everything that waits "
            "for it is tried."
        )
    elif recipient.waits_for:
        text += " It is tried earlier if other mail finds the host back."
    return text


def _others(recipient: RecipientFacts) -> str:
    count = len(recipient.others)
    named = ", ".join(recipient.others[:NAMED])
    more = f" and {count - NAMED} more" if count > NAMED else ""
    host = recipient.host_name or recipient.address.rpartition("@")[2]
    verb, plural = ("waits", "") if count == 1 else ("wait", "s")
    return f"{count} other message{plural} {verb} for {host}: {named}{more}."


def _end(facts: Facts) -> str:
    if facts.queue == "corrupt":
        return "It is never given up by itself."
    if facts.queue == "trash":
        return ""
    told = f"<{facts.sender}> is told then" if facts.sender else "nobody is told then"
    if facts.expires < 0:
        when = "as soon as it is released" if facts.queue == "hold" else "now"
        return f"An administrator gave it up: it goes {when}, without another attempt; {told}."
    if facts.expires <= facts.now:
        return f"Its time is over: if the next attempt fails, it is given up, and {told}."
    left = _span(facts.expires - facts.now)
    return f"Given up: {_when(facts.expires, facts.now)} (in {left}); {told}."


def _commands(facts: Facts, command: str) -> Iterator[str]:
    name = facts.queue_id
    words: list[tuple[str, str]] = []
    if facts.queue == "hold":
        words.append((f"-H {name}", "release it: it is tried at once"))
    elif facts.queue == "trash":
        words.append((f"--undelete {name}", "bring it back"))
    elif facts.queue in ("deferred", "incoming"):
        if facts.running:
            words.append((f"-i {name}", "try it now"))
            for host in dict.fromkeys(each.host_name for each in facts.recipients[:NAMED]):
                if host:
                    words.append((f"-s {host}", f"try all mail for {host} now"))
        else:
            words.append((f"-r {name}", "try it first thing when the daemon starts"))
    words.append((f"-b {name}", "read it"))
    if facts.queue not in ("hold", "corrupt", "trash"):
        words.append((f"-h {name}", "keep it from being tried"))
    if facts.queue != "trash":
        words.append((f"-d {name}", "delete it"))
    else:
        words.append((f"-d {name} trash", "delete it for good"))
    longest = max(len(word) for word, _ in words)
    yield from (f"  {command} {word:<{longest}}   {text}" for word, text in words)


def _wrap(text: str, margin: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _size(octets: int) -> str:
    if octets < 1024:
        return f"{octets} octets"
    if octets < 1024**2:
        return f"{octets / 1024:.1f} KB"
    return f"{octets / 1024**2:.1f} MB"


def _span(seconds: float) -> str:
    """A duration in its two largest units."""
    left = max(int(seconds), 0)
    parts: list[str] = []
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        count, left = divmod(left, size)
        if count or (size == 1 and not parts):
            parts.append(f"{count} {name}{'' if count == 1 else 's'}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)


def _when(at: float, now: float) -> str:
    """The time of day, with the day if that is another."""
    local = time.localtime(at)
    if local[:3] == time.localtime(now)[:3]:
        return time.strftime("today at %H:%M:%S", local)
    return time.strftime("on %a %d %b %Y at %H:%M:%S", local)


def _at(at: float, now: float) -> str:
    return "now" if at <= now else f"in {_span(at - now)}, {_when(at, now)}"


def with_others(facts: Facts, waiting: Mapping[tuple[str, str], Sequence[str]]) -> Facts:
    """The same, with the messages that wait for the same hosts, by `waiting_key`."""
    return replace(
        facts,
        recipients=tuple(
            replace(
                each,
                others=tuple(
                    name
                    for name in waiting.get(
                        waiting_key(each.address, each.relay, each.waits_for), ()
                    )
                    if name != facts.queue_id
                ),
            )
            for each in facts.recipients
        ),
    )


def waiting_key(address: str, relay: str, waits_for: str) -> tuple[str, str]:
    """What recipients that wait for one host have in common: the next hop that is down, else the
    host that answered last, else their domain."""
    if waits_for:
        return "site", waits_for
    if relay not in ("", "none", "local", "virtual"):
        return "relay", relay
    return "domain", address.rpartition("@")[2].lower()


def marks(address: str) -> tuple[str, ...]:
    """`Recipient.via` of a recipient for whom every alias has been followed."""
    lower = address.lower()
    local = lower.rpartition("@")[0] or lower
    return address, lower, local, local.partition("+")[0]
