"""Where a user's folders lie: `mail_location`, Maildir++ and LAYOUT=fs.

Folder names are `str` with "/" between levels. On disk each level is in modified UTF-7, or in
UTF-8 where a folder is found that way.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from resel_lda.mailbox import MailboxError
from resel_lda.maildir.names import decode_found, encode_mutf7

_MAX_LEVEL = 200
# Of a Maildir++ folder, which is one directory however many levels it has.
_MAX_FILE_NAME = 240
_MAX_DEPTH = 20
_OWN_DIRECTORIES = frozenset(("cur", "new", "tmp"))


@dataclass(frozen=True, slots=True)
class MailLocation:
    """root: where the folders lie. inbox: the Maildir of INBOX. control: for UID lists and our
    `state`; index: for our `cache`. fs: LAYOUT=fs."""

    root: str
    inbox: str
    control: str
    index: str
    fs: bool = False


class LocationError(ValueError):
    """A mail_location that cannot be used; the text says why."""


def expand(template: str, name: str, home: str) -> str:
    """Dovecot's %u %n %d %h and %%, and a leading ~/. Raises LocationError for other variables,
    and for a name that would lead out of its directory."""
    local, _, domain = name.rpartition("@") if "@" in name else (name, "", "")
    values = {"u": name, "n": local, "d": domain, "h": home, "%": "%"}
    for part in (local, domain):
        if "/" in part or "\0" in part or part in (".", ".."):
            raise LocationError("user name is not usable as a path")
    out: list[str] = []
    rest = template
    while True:
        text, percent, rest = rest.partition("%")
        out.append(text)
        if not percent:
            break
        if rest[:1] not in values or not rest:
            raise LocationError(f"unknown variable %{rest[:1]} in mail_location")
        if rest[0] == "h" and not home:
            raise LocationError("mail_location has %h but the user has no home")
        out.append(values[rest[0]])
        rest = rest[1:]
    path = "".join(out)
    if path == "~" or path.startswith("~/"):
        if not home:
            raise LocationError("mail_location has ~ but the user has no home")
        path = home + path[1:]
    return path


def parse_location(text: str, name: str, home: str) -> MailLocation:
    """``maildir:/path/%u:INDEX=...:CONTROL=...:INBOX=...:LAYOUT=fs``."""
    driver, _, rest = text.partition(":")
    if driver != "maildir" or not rest:
        raise LocationError(f"mail_location must be maildir:PATH, not {text}")
    words = rest.split(":")
    root = expand(words[0], name, home).rstrip("/")
    options: dict[str, str] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if equals and key.upper() in ("INDEX", "CONTROL", "INBOX", "LAYOUT"):
            options[key.upper()] = value if key.upper() == "LAYOUT" else expand(value, name, home)
        elif word.upper() != "UTF-8":
            raise LocationError(f"unknown setting {word} in mail_location")
    if not os.path.isabs(root):
        raise LocationError(f"mail_location's path is not absolute: {root}")
    layout = options.get("LAYOUT", "Maildir++")
    if layout.lower() not in ("maildir++", "fs"):
        raise LocationError(f"LAYOUT={layout} in mail_location is not supported")
    control = options.get("CONTROL", root)
    index = options.get("INDEX", control)
    return MailLocation(
        root,
        options.get("INBOX", root),
        control,
        control if index.upper() == "MEMORY" else index,
        layout.lower() == "fs",
    )


def is_inbox(name: str) -> bool:
    return name.upper() == "INBOX"


class Layout:
    """Maps folder names to directories. Methods block (they look at the disk)."""

    def __init__(self, location: MailLocation) -> None:
        self.location = location
        self.separator = "/" if location.fs else "."

    def check_name(self, name: str) -> None:
        """MailboxError("CANNOT") for a name that cannot be a folder here."""
        levels = name.split("/")
        bad = len(levels) > _MAX_DEPTH
        for level in levels:
            encoded = encode_mutf7(level)
            bad = bad or not level or len(encoded) > _MAX_LEVEL or not level.isprintable()
            if self.location.fs:
                bad = bad or level in (".", "..") or level in _OWN_DIRECTORIES or level[:1] == "."
            else:
                bad = bad or "." in level
        if not self.location.fs:
            bad = bad or len(self._join(encode_mutf7(level) for level in levels)) > _MAX_FILE_NAME
        if bad:
            raise MailboxError(f"Invalid mailbox name: {name}", "CANNOT", name)

    def directory(self, name: str) -> str:
        """The Maildir of a folder, whether it exists or not."""
        if is_inbox(name):
            return self.location.inbox
        encoded = self._join(encode_mutf7(level) for level in name.split("/"))
        path = os.path.join(self.location.root, encoded)
        if not name.isascii() and not os.path.isdir(path):
            raw = os.path.join(self.location.root, self._join(name.split("/")))
            if os.path.isdir(raw):
                return raw
        return path

    def _join(self, levels: Iterable[str]) -> str:
        joined = self.separator.join(levels)
        return joined if self.location.fs else f".{joined}"

    def control_directory(self, name: str) -> str:
        """Where the folder's dovecot-uidlist and dovecot-keywords lie."""
        location = self.location
        if location.control == location.root or (
            is_inbox(name) and location.control == location.inbox
        ):
            return self.directory(name)
        if is_inbox(name):
            return os.path.join(location.control, "INBOX" if location.fs else ".INBOX")
        return os.path.join(location.control, os.path.relpath(self.directory(name), location.root))

    def exists(self, name: str) -> bool:
        return os.path.isdir(os.path.join(self.directory(name), "cur"))

    def names(self) -> Mapping[str, bool]:
        """Every folder but INBOX: name -> whether it can be selected."""
        found: dict[str, bool] = {}
        if self.location.fs:
            self._walk(self.location.root, "", found)
        else:
            self._list(found)
        return found

    def _list(self, found: dict[str, bool]) -> None:
        try:
            entries = os.listdir(self.location.root)
        except FileNotFoundError:
            return
        for entry in entries:
            if len(entry) < 2 or entry[0] != "." or entry == "..":
                continue
            levels = [decode_found(level) for level in entry[1:].split(".")]
            name = "/".join(levels)
            if is_inbox(name) or not all(levels) or "/" in "".join(levels):
                continue
            if os.path.isdir(os.path.join(self.location.root, entry, "cur")):
                found[name] = True

    def _walk(self, directory: str, prefix: str, found: dict[str, bool], depth: int = 0) -> None:
        try:
            entries = [entry for entry in os.scandir(directory) if entry.is_dir()]
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name in _OWN_DIRECTORIES or entry.name[:1] == ".":
                continue
            name = prefix + decode_found(entry.name)
            if not is_inbox(name):
                found[name] = os.path.isdir(os.path.join(entry.path, "cur"))
            if depth < _MAX_DEPTH:
                self._walk(entry.path, name + "/", found, depth + 1)

    def descendants(self, name: str) -> list[str]:
        """Existing folders below `name`."""
        return [one for one in self.names() if one.startswith(f"{name}/")]

    def root_path(self) -> Path:
        return Path(self.location.root)
