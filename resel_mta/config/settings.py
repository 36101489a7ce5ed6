"""A configuration, read and checked: typed values by parameter name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from resel_mta.config import host
from resel_mta.config.examine import examine
from resel_mta.config.expand import ExpansionError, expand
from resel_mta.config.listen import Listener
from resel_mta.config.listeners import Addresses, Resolver
from resel_mta.config.parameters import Parameter, find
from resel_mta.config.problems import ConfigError, Problem
from resel_mta.config.restrictions import parse_restrictions
from resel_mta.config.roles import DEFAULT_ROLE, ROLES
from resel_mta.config.values import Value, parse_value


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from. kind: "file", "command line", "role" or "default".

    file, line: of the assignment, for "file". role: the role's name, for "role".
    """

    kind: str
    file: str = ""
    line: int = 0
    role: str = ""

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{self.file}:{self.line}"
        return f"role {self.role}" if self.kind == "role" else self.kind


@dataclass(frozen=True, slots=True)
class Setting:
    """A value as written, and where."""

    value: str
    source: Source


DEFAULT = Source("default")
DEFAULT_DIRECTORY = "/etc/resel-mta"


class Settings:
    """All parameters of one configuration. Immutable; a reload makes a new one.

    Getters raise KeyError for a name that is no parameter and TypeError for the wrong getter:
    both are bugs of the caller. Values of the file have been checked before.
    """

    def __init__(
        self,
        role: str,
        explicit: Mapping[str, Setting],
        *,
        path: str = "",
        config_directory: str = DEFAULT_DIRECTORY,
    ) -> None:
        """explicit: by name, "service/name" for one listener. `load` and `build` check them."""
        self.role = role
        self.path = path
        self.config_directory = config_directory
        self.warnings: tuple[Problem, ...] = ()
        self._explicit = dict(explicit)
        self._role_defaults = ROLES[role]
        self._texts: dict[str, str] = {}
        self._values: dict[str, Value] = {}
        self._services: dict[str, Settings] = {}
        self._expanding: list[str] = []
        self._addresses: Addresses | None = None

    @classmethod
    def build(cls, role: str = "server", **values: str) -> Settings:
        """Settings in memory. Raises ConfigError as `load` does."""
        explicit = {name: Setting(value, Source("command line")) for name, value in values.items()}
        settings, problems = cls.checked(role, explicit, [])
        if any(problem.is_error for problem in problems):
            raise ConfigError(problems)
        return settings

    @classmethod
    def checked(
        cls,
        role: str | None,
        explicit: dict[str, Setting],
        problems: list[Problem],
        *,
        path: str = "",
        config_directory: str = DEFAULT_DIRECTORY,
    ) -> tuple[Settings, list[Problem]]:
        """Settings, and all that is wrong with them after `problems`. role: --role, or None."""
        configured = explicit.get("role")
        wanted = role or (configured.value if configured else DEFAULT_ROLE)
        source = configured.source if configured and role is None else Source("command line")
        if configured and configured.value != wanted:
            text = f'says "{configured.value}", but the role given is "{wanted}"'
            where = str(configured.source)
            problems = [*problems, Problem(where, "role", text, is_error=False)]
        if wanted not in ROLES:
            text = f'"{wanted}" is not a role; allowed are: {", ".join(ROLES)}'
            problems = [*problems, Problem(str(source), "role", text)]
            explicit = {name: each for name, each in explicit.items() if name != "role"}
            wanted = DEFAULT_ROLE
        elif role is not None or configured is not None:
            explicit = {**explicit, "role": Setting(wanted, source)}
        settings = cls(wanted, explicit, path=path, config_directory=config_directory)
        problems = [*problems, *examine(settings)]
        settings.warnings = tuple(each for each in problems if not each.is_error)
        return settings, problems

    def plain(self) -> Settings:
        """The same role, with nothing set."""
        return Settings(self.role, {}, config_directory=self.config_directory)

    # -- what was set -------------------------------------------------------------------------

    def explicit(self) -> Mapping[str, Setting]:
        """What the file and the command line set, by name, as written."""
        return self._explicit

    def role_defaults(self) -> Mapping[str, str]:
        """What the role sets, by name, except where the file or the command line does."""
        return {
            name: value for name, value in self._role_defaults.items() if name not in self._explicit
        }

    def setting(self, name: str) -> Setting:
        """The value as written that is in force, and its source. KeyError if there is none."""
        found = self._explicit.get(name)
        if found is not None:
            return found
        value = self._role_defaults.get(name)
        if value is not None:
            return Setting(value, Source("role", role=self.role))
        parameter = find(name)
        if parameter is None:
            raise KeyError(name)
        return Setting(self._default(parameter), DEFAULT)

    def source(self, name: str) -> Source:
        """Where the value in force comes from."""
        if name in self._explicit or name in self._role_defaults:
            return self.setting(name).source
        if find(name) is None:
            raise KeyError(name)
        return DEFAULT

    def is_set(self, name: str) -> bool:
        """Whether the file or the command line sets it."""
        return name in self._explicit

    # -- getters ------------------------------------------------------------------------------

    def text(self, name: str) -> str:
        """The expanded value, any parameter."""
        found = self._texts.get(name)
        return self._expand(name) if found is None else found

    def flag(self, name: str) -> bool:
        """A yes/no parameter."""
        value = self.value(name)
        if value is True or value is False:
            return value
        raise TypeError(f"{name} is not a flag")

    def number(self, name: str) -> int:
        """A count, a reply code, or a size in octets."""
        value = self.value(name)
        if type(value) is int:
            return value
        raise TypeError(f"{name} is not a number")

    def seconds(self, name: str) -> int:
        """A time, in seconds."""
        return self.number(name)

    def items(self, name: str) -> tuple[str, ...]:
        """The items of a list; of access rules, the verbs with restriction classes put in."""
        value = self.value(name)
        if isinstance(value, tuple):
            return value
        raise TypeError(f"{name} is not a list")

    def value(self, name: str) -> Value:
        """The typed value. ValueError for a bad one that was not checked (not implemented)."""
        found = self._values.get(name)
        if found is None:
            found = self._values[name] = self._parse(name)
        return found

    # -- views and listeners ------------------------------------------------------------------

    def service(self, service: str) -> Settings:
        """The view of one listener: its ``service/name`` settings in the place of the general ones."""
        view = self._services.get(service)
        if view is None:
            prefix = service + "/"
            merged = dict(self._explicit)
            for name, value in self._role_defaults.items():
                # A role's default for one listener yields to what the file says for that listener.
                if name.startswith(prefix):
                    merged[name[len(prefix) :]] = Setting(value, Source("role", role=self.role))
            for name, setting in self._explicit.items():
                if name.startswith(prefix):
                    merged[name[len(prefix) :]] = setting
            view = Settings(
                self.role, merged, path=self.path, config_directory=self.config_directory
            )
            self._services[service] = view
        return view

    def listeners(self, service: str) -> tuple[Listener, ...]:
        """Where a service listens; () if it is off. Services: `listen.SERVICES`."""
        return self.addresses().listeners()[service]

    def is_own_address(self, ip: str, port: int) -> bool:
        """Whether a connection to it would reach this configuration's own SMTP listeners,
        proxy_interfaces included."""
        return self.addresses().is_own(ip, port)

    def addresses(self, resolver: Resolver | None = None) -> Addresses:
        """The resolved listeners; computed once (names in inet_interfaces are looked up then)."""
        if self._addresses is None:
            self._addresses = Addresses(self, resolver)
        return self._addresses

    # -- inside -------------------------------------------------------------------------------

    def lookup(self, name: str) -> str | None:
        """The expanded value of any name, also of one that only this file knows; None if unknown."""
        try:
            return self.text(name)
        except KeyError:
            return None

    def _expand(self, name: str) -> str:
        setting = self.setting(name)
        if name in self._expanding:
            raise ExpansionError(f'"${name}" refers to itself')
        self._expanding.append(name)
        try:
            text = expand(setting.value, self.lookup).strip()
        finally:
            self._expanding.pop()
        if name == "myorigin" and text.startswith("/"):
            text = host.first_line(text) or self.text("myhostname")
        self._texts[name] = text
        return text

    def _parse(self, name: str) -> Value:
        parameter = find(name)
        if parameter is None:
            raise KeyError(name)
        text = self.text(name)
        if parameter.type == "restrictions":
            return parse_restrictions(text, self._restriction_class)
        return parse_value(parameter, text)

    def _restriction_class(self, name: str) -> str | None:
        if name not in self.items("smtpd_restriction_classes"):
            return None
        return self.lookup(name) or ""

    def _default(self, parameter: Parameter) -> str:
        """The default as written, or computed for those that depend on the machine."""
        if not parameter.default.startswith("~"):
            return parameter.default
        match parameter.name:
            case "myhostname":
                name = host.host_name()
                if "." in name:
                    return name
                set_domain = self._explicit.get("mydomain")
                return f"{name}.{'$mydomain' if set_domain else 'localdomain'}"
            case "mydomain":
                return host.default_mydomain(self.text("myhostname"))
            case "mynetworks":
                return host.default_mynetworks(
                    str(self.value("mynetworks_style")), self.addresses().interfaces()
                )
            case "mail_version":
                return host.version()
            case "config_directory":
                return self.config_directory
        raise KeyError(parameter.name)
