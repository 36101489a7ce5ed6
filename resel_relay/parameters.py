"""The client's settings as plain values, read once: no look-up by name on the way of a message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from resel_mta.wire.destination import port_number

if TYPE_CHECKING:
    from resel_mta.config import Settings


def _nobody(_address: str, _port: int) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Parameters:
    """Postfix's smtp_* or lmtp_* parameters, without the prefix. Times in seconds.

    protocol: "smtp" or "lmtp". families: of "ipv4" and "ipv6".
    is_own_address: whether (address, port) is this server itself.
    """

    protocol: str = "smtp"
    myhostname: str = "localhost"
    helo_name: str = "localhost"
    tcp_port: int = 25
    families: tuple[str, ...] = ("ipv4", "ipv6")
    is_own_address: Callable[[str, int], bool] = _nobody
    address_preference: str = "any"
    randomize_addresses: bool = True
    mx_address_limit: int = 5
    mx_session_limit: int = 2
    ignore_mx_lookup_error: bool = False
    fallback_relay: tuple[str, ...] = ()
    bind_address: str = ""
    bind_address6: str = ""
    skip_5xx_greeting: bool = True
    never_send_ehlo: bool = False
    discard_ehlo_keywords: tuple[str, ...] = ()
    line_length_limit: int = 998
    connect_timeout: int = 30
    helo_timeout: int = 300
    mail_timeout: int = 300
    rcpt_timeout: int = 300
    data_init_timeout: int = 120
    data_xfer_timeout: int = 180
    data_done_timeout: int = 600
    rset_timeout: int = 20
    quit_timeout: int = 300
    starttls_timeout: int = 300
    connection_cache_on_demand: bool = True
    connection_cache_time_limit: int = 2
    connection_reuse_time_limit: int = 300
    connection_reuse_count_limit: int = 0
    tls_security_level: str = "none"
    tls_CAfile: str = ""
    tls_CApath: str = ""
    tls_loglevel: int = 0
    sasl_auth_enable: bool = False
    sasl_security_options: tuple[str, ...] = ("noplaintext", "noanonymous")
    sasl_tls_security_options: tuple[str, ...] = ("noplaintext", "noanonymous")


_SHARED = ("mail", "rcpt", "data_init", "data_xfer", "data_done", "rset", "quit", "connect")
_NUMBERS = ("mx_address_limit", "mx_session_limit", "line_length_limit")
_FLAGS = (
    "randomize_addresses",
    "skip_5xx_greeting",
    "never_send_ehlo",
    "connection_cache_on_demand",
)


def read_parameters(settings: Settings, protocol: str) -> Parameters:
    """The parameters of the SMTP or the LMTP client. Raises ValueError for an unknown port name."""
    values: dict[str, object] = {
        "protocol": protocol,
        "myhostname": settings.text("myhostname"),
        "families": _families(settings.items("inet_protocols")),
        "is_own_address": settings.is_own_address,
        "tcp_port": port_number(settings.text(f"{protocol}_tcp_port")),
    }
    for name in _SHARED:
        values[f"{name}_timeout"] = settings.seconds(f"{protocol}_{name}_timeout")
    if protocol == "lmtp":
        values["helo_name"] = settings.text("lmtp_lhlo_name")
        values["helo_timeout"] = settings.seconds("lmtp_lhlo_timeout")
    else:
        values.update(_smtp_only(settings))
    known = {field.name for field in fields(Parameters)}
    assert values.keys() <= known
    return Parameters(**values)  # type: ignore[arg-type]


def _smtp_only(settings: Settings) -> dict[str, object]:
    values: dict[str, object] = {name: settings.number(f"smtp_{name}") for name in _NUMBERS}
    values.update((name, settings.flag(f"smtp_{name}")) for name in _FLAGS)
    for name in ("helo_name", "bind_address", "bind_address6", "address_preference", "tls_CAfile"):
        values[name] = settings.text(f"smtp_{name}")
    for name in ("connection_cache_time_limit", "connection_reuse_time_limit", "starttls_timeout"):
        values[name] = settings.seconds(f"smtp_{name}")
    values["helo_timeout"] = settings.seconds("smtp_helo_timeout")
    values["tls_CApath"] = settings.text("smtp_tls_CApath")
    values["tls_loglevel"] = settings.number("smtp_tls_loglevel")
    values["tls_security_level"] = settings.text("smtp_tls_security_level") or "none"
    values["connection_reuse_count_limit"] = settings.number("smtp_connection_reuse_count_limit")
    values["ignore_mx_lookup_error"] = settings.flag("ignore_mx_lookup_error")
    values["fallback_relay"] = settings.items("smtp_fallback_relay")
    values["discard_ehlo_keywords"] = tuple(
        keyword.lower() for keyword in settings.items("smtp_discard_ehlo_keywords")
    )
    if settings.flag("smtp_sasl_auth_enable"):
        values["sasl_auth_enable"] = True
        for name in ("sasl_security_options", "sasl_tls_security_options"):
            values[name] = settings.items(f"smtp_{name}")
    return values


def _families(protocols: tuple[str, ...]) -> tuple[str, ...]:
    if "all" in protocols:
        return ("ipv4", "ipv6")
    return tuple(family for family in ("ipv4", "ipv6") if family in protocols)
