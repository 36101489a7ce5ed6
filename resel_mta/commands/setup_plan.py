"""What `resel-mta setup` would write: from the configuration that is there and the answers. Writes
nothing itself."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resel_mta.config.aliases import parse_aliases
from resel_mta.config.edit import commented_out, edited, read_text
from resel_mta.config.grammar import logical_lines
from resel_mta.config.load import read_assignments
from resel_mta.config.mapspec import parse_map
from resel_mta.config.roles import likely_role
from resel_mta.config.settings import Settings

# Of Postfix's main.cf, what is Postfix's own: its queue, its state and its account stay its.
_POSTFIX_OWN = ("queue_directory", "data_directory", "mail_owner", "setgid_group")
_EVERYWHERE, _LOOPBACK = "all", "loopback-only"


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked. root: where root's mail goes, targets as in aliases(5); "" leaves it."""

    role: str
    mailname: str
    relayhost: str
    root: str


@dataclass(frozen=True, slots=True)
class Change:
    """A file to be written. source: what `before` was read from, where that is another file.
    before: None for a new file."""

    path: Path
    source: Path
    before: str | None
    after: str

    def diff(self) -> Iterator[str]:
        """The lines of a unified diff."""
        before = self.before or ""
        name = str(self.source) if self.before is not None else "/dev/null"
        yield from difflib.unified_diff(
            before.splitlines(), self.after.splitlines(), name, str(self.path), lineterm=""
        )


@dataclass(frozen=True, slots=True)
class Start:
    """Where the setup starts from. kind: "own", "postfix" or "shipped" (the role's example).
    installed: the role that `make install` put there, "" if it did not."""

    kind: str
    path: Path
    text: str
    installed: str = ""

    def settings(self, role: str | None = None) -> Settings:
        """Of this text; what is wrong with it is `check`'s to say."""
        return settings_of(self.text, self.path, role)


def settings_of(text: str, path: Path, role: str | None = None) -> Settings:
    """The settings of a main.cf that need not be on disk."""
    explicit, problems = read_assignments(text, str(path))
    directory = os.path.abspath(path.parent)
    settings, _ = Settings.checked(
        role, explicit, problems, path=str(path), config_directory=directory
    )
    return settings


def shipped(name: str) -> str | None:
    """An example that came with the program ("relay.cf", "aliases"), None if it is not there."""
    checkout = Path(__file__).resolve().parents[2]
    for folder in (Path(sys.prefix), checkout):
        try:
            return read_text(folder / "conf" / name)
        except OSError:
            continue
    return None


def starting_point(own: Path, postfix: Path, roles: tuple[str, ...]) -> Start | None:
    """The administrator's own configuration, else Postfix's; one that is still as it was shipped
    is nobody's. None if there is neither. Raises OSError for a file that cannot be read."""
    text = _text(own)
    if text is not None and text not in [shipped(f"{role}.cf") for role in roles]:
        return Start("own", own, text)
    theirs = _text(postfix)
    if theirs is not None:
        installed = settings_of(text, own).role if text is not None else ""
        return Start("postfix", postfix, theirs, installed)
    return Start("shipped", own, text) if text is not None else None


def _text(path: Path) -> str | None:
    try:
        return read_text(path)
    except FileNotFoundError:
        return None


def guess_role(start: Start) -> str:
    """The role that the configuration names, else what was installed, else what a machine with
    such a Postfix is."""
    settings = start.settings()
    if start.kind != "postfix" or settings.is_set("role"):
        return settings.role
    if start.installed:
        return start.installed
    interfaces = settings.items("inet_interfaces") if settings.is_set("inet_interfaces") else ()
    return likely_role(settings.text("relayhost"), interfaces)


def present_answers(settings: Settings, role: str) -> Answers:
    """What the configuration says now; root's address as the shipped aliases have it where there
    is none."""
    root = ""
    aliases = alias_file(settings)
    text = _text(aliases) if aliases is not None else None
    for each in (text, shipped(f"aliases.{role}"), shipped("aliases")):
        if not root and each is not None:
            root = parse_aliases(each, "")[0].get("root", "")
    return Answers(role, settings.text("myorigin"), settings.text("relayhost"), root)


def alias_file(settings: Settings) -> Path | None:
    """The first file that local aliases are looked up in, None where they are not in a file."""
    for item in settings.items("alias_maps"):
        for spec in parse_map(item).files():
            return Path(spec.name)
    return None


def is_elsewhere(settings: Settings, domain: str) -> bool:
    """Whether mydestination does certainly not hold it: a table or file is not looked into."""
    items = settings.items("mydestination")
    plain = not any(":" in item or "/" in item for item in items)
    return plain and domain.lower() not in {item.lower() for item in items}


def plan(start: Start | None, own: Path, answers: Answers) -> list[Change]:
    """The files to be written; none that would stay as it is. Raises OSError."""
    text, source = base(start, own, answers.role)
    settings = settings_of(text, source, answers.role)
    values: dict[str, str] = {}
    changes = []
    explicit = settings.explicit()
    before = settings_of(text, source).explicit().get("role")
    if before is None or before.value != answers.role:
        values["role"] = answers.role
    if settings.text("relayhost") != answers.relayhost:
        values["relayhost"] = answers.relayhost
    if settings.text("myorigin") != answers.mailname:
        origin = settings.setting("myorigin").value
        if origin.startswith("/"):
            changes.append(_change(Path(origin), answers.mailname + "\n"))
        else:
            values["myorigin"] = answers.mailname
    wanted = _interfaces(settings, answers.role)
    if "inet_interfaces" in explicit and wanted:
        values["inet_interfaces"] = wanted
    after = edited(text, values)
    old = _text(own)
    if after != old:
        # Shown beside what it was made from.
        shown = source if old is None or source != own else own
        changes.insert(0, Change(own, shown, _text(shown), after))
    if answers.root:
        change = _aliases(settings_of(after, own, answers.role), answers)
        if change is not None:
            changes.append(change)
    return [change for change in changes if change.before != change.after or change.path == own]


def base(start: Start | None, own: Path, role: str) -> tuple[str, Path]:
    """The text that is changed, and where it is from."""
    if start is None or start.kind == "shipped":
        example = shipped(f"{role}.cf")
        if example is not None:
            return example, own
        return (start.text if start is not None else ""), own
    if start.kind == "postfix":
        return commented_out(start.text, _POSTFIX_OWN), start.path
    return start.text, start.path


def _interfaces(settings: Settings, role: str) -> str:
    """As dpkg-reconfigure does: a satellite listens for itself only, the others for all."""
    plain = settings.plain().text("inet_interfaces")
    now = settings.text("inet_interfaces")
    return plain if now in (_EVERYWHERE, _LOOPBACK) and now != plain else ""


def _change(path: Path, after: str) -> Change:
    return Change(path, path, _text(path), after)


def _aliases(settings: Settings, answers: Answers) -> Change | None:
    path = alias_file(settings)
    if path is None:
        return None
    text = _text(path)
    base = text
    if base is None:
        base = shipped(f"aliases.{answers.role}") or shipped("aliases") or ""
    after = with_alias(base, "root", answers.root)
    found, _ = parse_aliases(after, "")
    # Mail for the account that the daemon runs as would wait for one.
    for name in ("postmaster", settings.text("mail_owner").lower()):
        if name not in found:
            after = with_alias(after, name, "root")
    return Change(path, path, text, after) if after != text else None


def with_alias(text: str, name: str, targets: str) -> str:
    """The text of an alias file in which `name` has these targets: in its place, else at the end."""
    found, _ = parse_aliases(text, "")
    if found.get(name) == targets:
        return text
    lines = text.split("\n")
    for first, last, line in logical_lines(text):
        if name in parse_aliases(line, "")[0]:
            lines[first - 1 : last] = [f"{name}: {targets}"]
            return "\n".join(lines)
    if lines and not lines[-1]:
        lines.pop()
    return "\n".join([*lines, f"{name}: {targets}", ""])
