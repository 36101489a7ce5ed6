"""The queue as Postfix's commands show it: ``postqueue -p``, ``postqueue -j``, ``postcat``.

Pure functions over the entries that `QueueStore.walk` gives; lines end with a newline.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterable, Iterator

from resel_mta.queue.door import Checked, Entry

NULL_SENDER = "MAILER-DAEMON"
EMPTY = "Mail queue is empty\n"
NONE_SELECTED = "No message in the queue fits this selection\n"

# One for all: json.dumps would make an encoder for each.
_encode = json.JSONEncoder(ensure_ascii=False).encode
_MARKS = {"active": "*", "hold": "!"}
_SHORT = "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------\n"
_LONG = "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------\n"
_SHORT_MARGIN = " " * (11 + 1 + 7 + 1 + 20 + 1)
_LONG_MARGIN = " " * (17 + 1 + 8 + 1 + 19 + 1)


def mailq(entries: Iterable[Entry], *, long_ids: bool = False, empty: str = EMPTY) -> Iterator[str]:
    """``postqueue -p``, in pieces, one message at a time.

    long_ids: the wider columns that Postfix uses with enable_long_queue_ids. empty: what is said
    where there is none.
    """
    count = size = 0
    for entry in entries:
        if not count:
            yield _LONG if long_ids else _SHORT
        else:
            yield "\n"
        count += 1
        size += entry.size
        yield _message(entry, long_ids)
    yield summary(count, size) if count else empty


def summary(count: int, size: int) -> str:
    """The last line: so many messages with so many octets."""
    if not count:
        return EMPTY
    return f"\n-- {size // 1024} Kbytes in {count} Request{'' if count == 1 else 's'}.\n"


def _message(entry: Entry, long_ids: bool) -> str:
    name = entry.queue_id + _MARKS.get(entry.queue, "") + ("#" if entry.forced_expire else "")
    when = _moment(int(entry.arrival))
    sender = entry.sender or NULL_SENDER
    if long_ids:
        lines = [f"{name:<17} {entry.size:>8} {when[:19]} {sender}\n"]
        margin = _LONG_MARGIN
    else:
        lines = [f"{name:<11} {entry.size:>7} {when[:20]} {sender}\n"]
        margin = _SHORT_MARGIN
    shown = ""
    for address, _, _, _, reason, *_ in entry.recipients:
        # A reason is shown once for all recipients in a row that share it.
        if reason != shown:
            shown = reason
            text = f"({shown or 'reason unavailable'})"
            lines.append(f"{text:>78}\n")
        lines.append(f"{margin}{address}\n")
    return "".join(lines)


@functools.lru_cache(maxsize=16)
def _moment(second: int) -> str:
    """For speed: mail that came together has the same."""
    return time.asctime(time.localtime(second))


def as_json(entry: Entry) -> str:
    """``postqueue -j``: one object on one line, with its keys in its order."""
    recipients = []
    for recipient in entry.recipients:
        shown = {"address": recipient.address}
        if recipient.reason:
            shown["delay_reason"] = recipient.reason
        recipients.append(shown)
    record: dict[str, object] = {
        "queue_name": entry.queue,
        "queue_id": entry.queue_id,
        "arrival_time": int(entry.arrival),
        "message_size": entry.size,
        "forced_expire": entry.forced_expire,
        "sender": entry.sender or NULL_SENDER,
        "recipients": recipients,
    }
    if entry.deleted:
        record["deleted_time"] = int(entry.deleted)
    return _encode(record) + "\n"


def checked(found: Checked, command: str) -> Iterator[str]:
    """What was looked at and what of it was damaged, for a person, in lines without their ends.
    command: how resel-queue is called for this queue."""
    files = f"{found.files} of them with a content file" if found.files else "no content files"
    yield f"Checked: {found.messages} message{_s(found.messages)}, {files}; database {found.octets} octets."
    if found.corrupt:
        yield f"{found.corrupt} of them had been set aside before ({command} -p corrupt)."
    if found.left:
        what = f"{found.left} temporary file{_s(found.left)} left by a crash"
        there, them = ("is", "it") if found.left == 1 else ("are", "them")
        yield f"There {there} {what}: {command} purge removes {them}."
    if not found.problems:
        yield "Nothing is damaged."
        return
    yield f"{len(found.problems)} problem{_s(len(found.problems))}:"
    for problem in found.problems:
        yield f"  {problem}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def postcat(entry: Entry, message: Iterable[bytes]) -> Iterator[bytes]:
    """``postcat``: the envelope, then the message with its lines ended as files here have them.

    message: the whole message in pieces, its lines ended by CR LF.
    """
    name = f"{entry.queue}/{entry.queue_id}"
    yield f"*** ENVELOPE RECORDS {name} ***\n".encode()
    when = time.asctime(time.localtime(entry.arrival))
    lines = [
        f"message_size: {entry.size}",
        f"message_arrival_time: {when}",
        f"sender: {entry.sender}",
    ]
    for recipient in entry.recipients:
        if recipient.orig_to and recipient.orig_to != recipient.address:
            lines.append(f"original_recipient: {recipient.orig_to}")
        lines.append(f"recipient: {recipient.address}")
    yield "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
    yield f"*** MESSAGE CONTENTS {name} ***\n".encode()
    yield from local_lines(message)
    yield f"*** HEADER EXTRACTED {name} ***\n*** MESSAGE FILE END {name} ***\n".encode()


def local_lines(message: Iterable[bytes]) -> Iterator[bytes]:
    """CR LF to LF, also where it is cut in two; the last line is ended."""
    held, last = b"", b"\n"
    for piece in message:
        data = held + piece
        held = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(held)].replace(b"\r\n", b"\n")
        if data:
            last = data[-1:]
            yield data
    if last != b"\n" or held:
        yield held + b"\n"
