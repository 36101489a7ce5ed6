"""The file behind ``ldap:FILE``, in the format of Dovecot's dovecot-ldap.conf.ext.

Of Dovecot's settings those below are understood; any other is an error, since to leave one out
could let somebody in. Passwords are checked by binding as the user (``auth_bind = yes``), or
against the attribute that ``pass_attrs`` calls ``password``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from resel_mta.users.schemes import SCHEMES

_SCOPES: Mapping[str, int] = MappingProxyType({"base": 0, "onelevel": 1, "subtree": 2})
# What changes nothing here, with the values for which that is so.
_HARMLESS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"ldap_version": ("3",), "deref": ("never",), "debug_level": ("0",), "blocking": ("no", "yes")}
)
_FIELDS = ("uid", "gid", "home", "mail", "quota_storage_size", "quota_rule")
_ATTRIBUTE = re.compile(r"%\{ldap:([A-Za-z][A-Za-z0-9;-]*)(?::([^}]*))?\}|%\$|%([und%])")


@dataclass(frozen=True, slots=True)
class LdapConfig:
    """uris: of the servers, best first. dn, password: for searches, "" for none. starttls: on an
    ldap:// connection. user_filter, login_filter, list_filter: with %u, %n, %d.
    fields: what a user has (uid, gid, home, mail, quota_…) as templates of attributes.
    password_attribute: what log-ins are checked against, "" for binding as the user; default_scheme:
    of one without ``{SCHEME}``.
    """

    uris: tuple[str, ...]
    base: str
    dn: str = ""
    password: str = field(default="", repr=False)
    starttls: bool = False
    ca_file: str = ""
    verify: bool = True
    scope: int = 2
    user_filter: str = "(&(objectClass=posixAccount)(uid=%u))"
    login_filter: str = "(&(objectClass=posixAccount)(uid=%u))"
    list_filter: str = "(objectClass=posixAccount)"
    list_attribute: str = "uid"
    fields: Mapping[str, str] = field(default_factory=dict)
    password_attribute: str = ""
    default_scheme: str = "CRYPT"

    def attributes(self) -> list[str]:
        """What must be asked for, to fill in the fields."""
        found = [match[1] for text in self.fields.values() for match in _ATTRIBUTE.finditer(text)]
        return sorted({name for name in found if name})


def parse_ldap_config(text: str, file: str) -> LdapConfig:
    """Raises ValueError, with file and line, that holds no password."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ValueError(f'{file}:{number}: "name = value" was expected')
        if name not in _KNOWN and name not in _HARMLESS:
            raise ValueError(f"{file}:{number}: {name} is not supported")
        values[name] = value.strip()
    try:
        return _build(values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


_KNOWN = frozenset(
    (
        *("hosts", "uris", "dn", "dnpass", "tls", "tls_ca_cert_file", "tls_require_cert"),
        *("auth_bind", "base", "scope", "user_filter", "pass_filter", "user_attrs"),
        *("iterate_filter", "iterate_attrs", "pass_attrs", "default_pass_scheme"),
    )
)


def _build(values: Mapping[str, str]) -> LdapConfig:
    for name, allowed in _HARMLESS.items():
        if values.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{name} = {values[name]} is not supported")
    uris = values.get("uris", "").split()
    uris += [f"ldap://{host}" for host in values.get("hosts", "").split()]
    if not uris or not values.get("base"):
        raise ValueError("uris (or hosts) and base are needed")
    scope = values.get("scope", "subtree")
    if scope not in _SCOPES:
        raise ValueError(f"scope = {scope}: allowed are {', '.join(_SCOPES)}")
    verify = values.get("tls_require_cert", "demand")
    if verify not in ("never", "demand", "hard"):
        raise ValueError(f"tls_require_cert = {verify}: allowed are demand, hard and never")
    default = LdapConfig.__dataclass_fields__
    user_filter = values.get("user_filter", str(default["user_filter"].default))
    attributes = values.get("user_attrs", "homeDirectory=home,uidNumber=uid,gidNumber=gid")
    listed = values.get("iterate_attrs", "uid=user").partition("=")
    return LdapConfig(
        tuple(uris),
        values["base"],
        values.get("dn", ""),
        values.get("dnpass", "").strip('"'),
        values.get("tls", "no") == "yes",
        values.get("tls_ca_cert_file", ""),
        verify != "never",
        _SCOPES[scope],
        user_filter,
        values.get("pass_filter", user_filter),
        values.get("iterate_filter", str(default["list_filter"].default)),
        listed[0].strip(),
        _fields(attributes),
        _password_attribute(values),
        _scheme(values.get("default_pass_scheme", "CRYPT")),
    )


def _password_attribute(values: Mapping[str, str]) -> str:
    bind = values.get("auth_bind", "no")
    if bind not in ("yes", "no"):
        raise ValueError(f"auth_bind = {bind}: allowed are yes and no")
    found = ""
    for item in values.get("pass_attrs", "uid=user, userPassword=password").split(","):
        attribute, _, name = (part.strip() for part in item.partition("="))
        if name == "password" and attribute:
            found = attribute
        elif item.strip() and name != "user" and not name.startswith("userdb_"):
            # Such as allow_nets, which would say who may not log in.
            raise ValueError(f"pass_attrs: {item.strip()} is not supported")
    if bind == "yes":
        return ""
    if not found:
        raise ValueError("auth_bind = no, so that pass_attrs must name a password")
    return found


def _scheme(name: str) -> str:
    if name.upper() not in SCHEMES:
        raise ValueError(f"default_pass_scheme = {name}: there is no such scheme")
    return name.upper()


def _fields(text: str) -> dict[str, str]:
    """``attribute=field`` and ``=field=template`` (with %{ldap:attribute}), separated by commas."""
    found = {}
    for item in filter(None, (each.strip() for each in text.split(","))):
        first, _, rest = item.partition("=")
        if first:
            name, template = rest.strip(), f"%{{ldap:{first.strip()}}}"
        else:
            name, _, template = rest.partition("=")
        name = name.strip().removeprefix("userdb_")
        if name not in _FIELDS:
            raise ValueError(f"user_attrs: {item}: fields are {', '.join(_FIELDS)}")
        found[name] = template.strip()
    return found


def fill(template: str, name: str, attributes: Mapping[str, str]) -> str:
    """A field's value; "" where an attribute that it needs is missing."""
    missing = False

    def put(match: re.Match[str]) -> str:
        nonlocal missing
        if match[1]:
            value = attributes.get(match[1].lower(), match[2] or "")
            missing = missing or not value
            return value
        return _part(match[3] or "", name)

    text = _ATTRIBUTE.sub(put, template)
    return "" if missing else text


def _part(letter: str, name: str) -> str:
    local, _, domain = name.partition("@")
    return {"u": name, "n": local, "d": domain, "%": "%"}.get(letter, "")


def filter_for(template: str, name: str) -> str:
    """A filter with the name in it, escaped (RFC 4515 §3)."""
    escaped = "".join(c if c not in "\\*()\0" else f"\\{ord(c):02x}" for c in name)
    return re.sub(r"%([und%])", lambda match: _part(match[1], escaped), template)
