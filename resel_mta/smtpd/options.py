"""What one SMTP service is configured to do, read once from the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from resel_mta.config import Settings
from resel_mta.config.networks import Networks

_READ = "read"


def _read(how: Callable[[Settings], object]) -> Any:
    """A field that is read from the settings."""
    return field(metadata={_READ: how})


def _text(parameter: str) -> Any:
    return _read(lambda settings: settings.text(parameter))


def _number(parameter: str) -> Any:
    return _read(lambda settings: settings.number(parameter))


def _seconds(parameter: str) -> Any:
    return _read(lambda settings: settings.seconds(parameter))


def _flag(parameter: str) -> Any:
    return _read(lambda settings: settings.flag(parameter))


def _items(parameter: str) -> Any:
    return _read(lambda settings: settings.items(parameter))


def _networks(parameter: str) -> Any:
    return _read(lambda settings: Networks(settings.items(parameter)))


def _verbs(parameter: str) -> Any:
    """SMTP commands. Only plain words; Postfix's default of smtpd_forbidden_commands also has one
    regexp, "no letter at the start"."""

    def read(settings: Settings) -> frozenset[bytes]:
        words = (word for word in settings.items(parameter) if word.isalnum())
        return frozenset(word.upper().encode("ascii", "replace") for word in words)

    return _read(read)


@dataclass(frozen=True, slots=True)
class Options:
    """The parameters of an SMTP service, by the names of main.cf without their smtpd_ prefix.

    Sizes in octets, times in seconds. A session keeps the options that it began with.
    implicit_tls: the connection starts with a TLS handshake (submissions).
    recipient_lists: the rule lists that are asked at RCPT, in their order.
    has_early_rules: whether there are rules about the client, HELO or the sender.
    """

    service: str
    implicit_tls: bool
    tls_offered: bool
    tls_required: bool
    recipient_lists: tuple[tuple[str, ...], ...]
    has_early_rules: bool

    myhostname: str = _text("myhostname")
    myorigin: str = _text("myorigin")
    banner: str = _text("smtpd_banner")
    message_size_limit: int = _number("message_size_limit")
    recipient_limit: int = _number("smtpd_recipient_limit")
    recipient_overshoot_limit: int = _number("smtpd_recipient_overshoot_limit")
    soft_error_limit: int = _number("smtpd_soft_error_limit")
    hard_error_limit: int = _number("smtpd_hard_error_limit")
    junk_command_limit: int = _number("smtpd_junk_command_limit")
    error_sleep_time: int = _seconds("smtpd_error_sleep_time")
    timeout: int = _seconds("smtpd_timeout")
    starttls_timeout: int = _seconds("smtpd_starttls_timeout")
    connection_count_limit: int = _number("smtpd_client_connection_count_limit")
    limit_exceptions: Networks = _networks("smtpd_client_event_limit_exceptions")  # noqa: RUF009
    mynetworks: Networks = _networks("mynetworks")  # noqa: RUF009
    client_restrictions: tuple[str, ...] = _items("smtpd_client_restrictions")
    helo_restrictions: tuple[str, ...] = _items("smtpd_helo_restrictions")
    sender_restrictions: tuple[str, ...] = _items("smtpd_sender_restrictions")
    data_restrictions: tuple[str, ...] = _items("smtpd_data_restrictions")
    end_of_data_restrictions: tuple[str, ...] = _items("smtpd_end_of_data_restrictions")
    rewrite_clients: tuple[str, ...] = _items("local_header_rewrite_clients")
    reject_code: int = _number("reject_code")
    defer_code: int = _number("defer_code")
    relay_domains_reject_code: int = _number("relay_domains_reject_code")
    unknown_client_reject_code: int = _number("unknown_client_reject_code")
    peername_lookup: bool = _flag("smtpd_peername_lookup")
    delay_reject: bool = _flag("smtpd_delay_reject")
    reject_unlisted_recipient: bool = _flag("smtpd_reject_unlisted_recipient")
    allow_untrusted_routing: bool = _flag("allow_untrusted_routing")
    helo_required: bool = _flag("smtpd_helo_required")
    vrfy_disabled: bool = _flag("disable_vrfy_command")
    smtputf8: bool = _flag("smtputf8_enable")
    hopcount_limit: int = _number("hopcount_limit")
    line_length_limit: int = _read(lambda settings: max(settings.number("line_length_limit"), 512))
    discard_ehlo_keywords: frozenset[str] = _read(
        lambda settings: _upper(settings.items("smtpd_discard_ehlo_keywords"))
    )
    noop_commands: frozenset[bytes] = _verbs("smtpd_noop_commands")
    forbidden_commands: frozenset[bytes] = _verbs("smtpd_forbidden_commands")
    forbid_unauth_pipelining: bool = _flag("smtpd_forbid_unauth_pipelining")
    forbid_bare_newline: bool = _read(
        lambda settings: settings.text("smtpd_forbid_bare_newline").lower() == "reject"
    )
    bare_newline_exclusions: Networks = _networks("smtpd_forbid_bare_newline_exclusions")  # noqa: RUF009
    bare_newline_reject_code: int = _number("smtpd_forbid_bare_newline_reject_code")
    client_port_logging: bool = _flag("smtpd_client_port_logging")
    tls_loglevel: int = _number("smtpd_tls_loglevel")
    tls_received_header: bool = _flag("smtpd_tls_received_header")
    sasl_auth_enable: bool = _flag("smtpd_sasl_auth_enable")
    sasl_auth_in_clear: bool = _read(
        lambda settings: (
            not settings.flag("smtpd_tls_auth_only")
            and "noplaintext" not in settings.items("smtpd_sasl_security_options")
        )
    )
    sasl_authenticated_header: bool = _flag("smtpd_sasl_authenticated_header")
    sasl_response_limit: int = _number("smtpd_sasl_response_limit")

    @classmethod
    def from_settings(cls, service: str, settings: Settings) -> Options:
        """settings: the service's own view. Raises ValueError, OSError for a bad network list."""
        level = settings.text("smtpd_tls_security_level")
        implicit = service == "submissions"
        lists = (
            settings.items("smtpd_relay_restrictions"),
            settings.items("smtpd_recipient_restrictions"),
        )
        relay_first = settings.flag("smtpd_relay_before_recipient_restrictions")
        early = (
            "smtpd_client_restrictions",
            "smtpd_helo_restrictions",
            "smtpd_sender_restrictions",
        )
        options = cls(
            service=service,
            implicit_tls=implicit,
            tls_offered=implicit or level in ("may", "encrypt"),
            tls_required=level == "encrypt" and not implicit,
            recipient_lists=lists if relay_first else lists[::-1],
            has_early_rules=any(settings.items(name) for name in early),
            **{f.name: f.metadata[_READ](settings) for f in fields(cls) if _READ in f.metadata},
        )
        return options._of_lmtp() if service == "lmtp" else options

    def _of_lmtp(self) -> Options:
        """LMTP delivers to mailboxes of this host and nowhere else, past all that guards port 25:
        unless it is said who may (lmtp/smtpd_client_restrictions), mynetworks may."""
        return replace(
            self,
            recipient_lists=((), ()),
            client_restrictions=self.client_restrictions or ("permit_mynetworks", "reject"),
            has_early_rules=True,
        )


def _upper(words: Iterable[str]) -> frozenset[str]:
    return frozenset(word.upper() for word in words)
