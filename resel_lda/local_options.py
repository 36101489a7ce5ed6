"""Parameters of local delivery, typed: for commands, files and mbox mailboxes."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass

from resel_lda.errand import Errand, expand_template
from resel_lda.mbox import Locking
from resel_lda.pipe import Command, safe_value
from resel_mta.config import Settings
from resel_mta.config.grammar import split_items

_PATH = "/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """Built once per configuration by `from_settings`."""

    commands_allowed: frozenset[str]
    files_allowed: frozenset[str]
    delivered_to: frozenset[str]
    time_limit: float
    shell: str
    directory: str
    allowed_characters: str
    exported: Mapping[str, str]
    locking: Locking
    size_limit: int
    forward_path: tuple[str, ...]

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalOptions:
        return cls(
            frozenset(settings.items("allow_mail_to_commands")),
            frozenset(settings.items("allow_mail_to_files")),
            frozenset(settings.items("prepend_delivered_header")),
            settings.seconds("command_time_limit"),
            settings.text("local_command_shell"),
            settings.setting("command_execution_directory").value,
            settings.text("command_expansion_filter"),
            _exported(settings.items("export_environment")),
            Locking.from_settings(settings),
            settings.number("mailbox_size_limit"),
            tuple(split_items(settings.setting("forward_path").value)),
        )

    def forward_paths(self, errand: Errand) -> list[str]:
        """Where the recipient's .forward file may be, best first."""
        if not errand.job.user.home:
            return []
        paths = [expand_template(each, errand, login_shell(errand)) for each in self.forward_path]
        return list(dict.fromkeys(path for path in paths if path.startswith("/")))

    def command(self, errand: Errand) -> Command:
        """The command of an errand with the environment that local(8) gives it."""
        job, user = errand.job, errand.job.user
        shell = login_shell(errand)
        mail = {
            "LOCAL": job.address.rpartition("@")[0] or job.address,
            "EXTENSION": errand.extension,
            "DOMAIN": job.address.rpartition("@")[2],
            "RECIPIENT": job.address,
            "ORIGINAL_RECIPIENT": job.orig_to,
            "SENDER": job.reverse_path or "MAILER-DAEMON",
        }
        if not errand.is_user:
            mail |= {"USER": errand.local, "LOGNAME": errand.local}
        environment = {
            "PATH": _PATH,
            **self.exported,
            **{name: safe_value(text, self.allowed_characters) for name, text in mail.items()},
        }
        if errand.is_user:
            own = {"HOME": user.home, "SHELL": shell, "USER": user.name, "LOGNAME": user.name}
            environment |= {name: value for name, value in own.items() if value}
        return Command(
            errand.argument,
            {name: value for name, value in environment.items() if value},
            expand_template(self.directory, errand, shell) or "/",
            self.shell,
            self.time_limit,
        )


def login_shell(errand: Errand) -> str:
    """The account's shell, "" for one that the machine does not know."""
    uid = errand.job.user.uid
    try:
        return pwd.getpwuid(os.getuid() if uid is None else uid).pw_shell
    except KeyError:
        return ""


def _exported(items: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for item in items:
        name, equals, value = item.strip("{}").strip().partition("=")
        value = value if equals else os.environ.get(name, "")
        if name and value:
            found[name] = value
    return found
