"""What one SMTP service is configured to do, read once from the settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from resel_mta.config import Settings
from resel_mta.config.networks import Networks
from resel_mta.users.sasl import MECHANISMS


@dataclass(frozen=True, slots=True)
class Options:
    """The parameters of an SMTP service, by the names of main.cf without their smtpd_ prefix.

    Sizes in octets, times in seconds. A session keeps the options that it began with.
    implicit_tls: the connection starts with a TLS handshake (submissions).
    """

    service: str
    implicit_tls: bool
    myhostname: str
    myorigin: str
    banner: str
    message_size_limit: int
    recipient_limit: int
    recipient_overshoot_limit: int
    soft_error_limit: int
    hard_error_limit: int
    junk_command_limit: int
    error_sleep_time: int
    timeout: int
    starttls_timeout: int
    connection_count_limit: int
    limit_exceptions: Networks
    mynetworks: Networks
    client_restrictions: tuple[str, ...]
    helo_restrictions: tuple[str, ...]
    sender_restrictions: tuple[str, ...]
    relay_restrictions: tuple[str, ...]
    recipient_restrictions: tuple[str, ...]
    data_restrictions: tuple[str, ...]
    end_of_data_restrictions: tuple[str, ...]
    rewrite_clients: tuple[str, ...]
    reject_code: int
    defer_code: int
    relay_domains_reject_code: int
    relay_before_recipient: bool
    delay_reject: bool
    reject_unlisted_recipient: bool
    allow_untrusted_routing: bool
    helo_required: bool
    vrfy_disabled: bool
    smtputf8: bool
    hopcount_limit: int
    line_length_limit: int
    discard_ehlo_keywords: frozenset[str]
    noop_commands: frozenset[bytes]
    forbidden_commands: frozenset[bytes]
    client_port_logging: bool
    tls_offered: bool
    tls_required: bool
    tls_loglevel: int
    tls_received_header: bool
    sasl_mechanisms: tuple[str, ...]
    sasl_auth_in_clear: bool
    sasl_authenticated_header: bool
    sasl_response_limit: int

    @property
    def has_early_rules(self) -> bool:
        """Whether there are rules about the client, HELO or the sender."""
        return bool(self.client_restrictions or self.helo_restrictions or self.sender_restrictions)

    @property
    def recipient_lists(self) -> tuple[tuple[str, ...], ...]:
        """The lists that are asked at RCPT, in their order."""
        lists = (self.relay_restrictions, self.recipient_restrictions)
        return lists if self.relay_before_recipient else lists[::-1]

    @classmethod
    def from_settings(cls, service: str, settings: Settings) -> Options:
        """settings: the service's own view. Raises ValueError, OSError for a bad network list."""
        number, flag, items, text = settings.number, settings.flag, settings.items, settings.text
        level = text("smtpd_tls_security_level")
        implicit = service == "submissions"
        return cls(
            service=service,
            implicit_tls=implicit,
            myhostname=text("myhostname"),
            myorigin=text("myorigin"),
            banner=text("smtpd_banner"),
            message_size_limit=number("message_size_limit"),
            recipient_limit=number("smtpd_recipient_limit"),
            recipient_overshoot_limit=number("smtpd_recipient_overshoot_limit"),
            soft_error_limit=number("smtpd_soft_error_limit"),
            hard_error_limit=number("smtpd_hard_error_limit"),
            junk_command_limit=number("smtpd_junk_command_limit"),
            error_sleep_time=settings.seconds("smtpd_error_sleep_time"),
            timeout=settings.seconds("smtpd_timeout"),
            starttls_timeout=settings.seconds("smtpd_starttls_timeout"),
            connection_count_limit=number("smtpd_client_connection_count_limit"),
            limit_exceptions=Networks(items("smtpd_client_event_limit_exceptions")),
            mynetworks=Networks(items("mynetworks")),
            client_restrictions=items("smtpd_client_restrictions"),
            helo_restrictions=items("smtpd_helo_restrictions"),
            sender_restrictions=items("smtpd_sender_restrictions"),
            relay_restrictions=items("smtpd_relay_restrictions"),
            recipient_restrictions=items("smtpd_recipient_restrictions"),
            data_restrictions=items("smtpd_data_restrictions"),
            end_of_data_restrictions=items("smtpd_end_of_data_restrictions"),
            rewrite_clients=items("local_header_rewrite_clients"),
            reject_code=number("reject_code"),
            defer_code=number("defer_code"),
            relay_domains_reject_code=number("relay_domains_reject_code"),
            relay_before_recipient=flag("smtpd_relay_before_recipient_restrictions"),
            delay_reject=flag("smtpd_delay_reject"),
            reject_unlisted_recipient=flag("smtpd_reject_unlisted_recipient"),
            allow_untrusted_routing=flag("allow_untrusted_routing"),
            helo_required=flag("smtpd_helo_required"),
            vrfy_disabled=flag("disable_vrfy_command"),
            smtputf8=flag("smtputf8_enable"),
            hopcount_limit=number("hopcount_limit"),
            line_length_limit=max(number("line_length_limit"), 512),
            discard_ehlo_keywords=frozenset(
                word.upper() for word in items("smtpd_discard_ehlo_keywords")
            ),
            noop_commands=_verbs(items("smtpd_noop_commands")),
            # Only plain words; Postfix's default also has one regexp, "no letter at the start".
            forbidden_commands=_verbs(
                word for word in items("smtpd_forbidden_commands") if word.isalnum()
            ),
            client_port_logging=flag("smtpd_client_port_logging"),
            tls_offered=implicit or level in ("may", "encrypt"),
            tls_required=level == "encrypt" and not implicit,
            tls_loglevel=number("smtpd_tls_loglevel"),
            tls_received_header=flag("smtpd_tls_received_header"),
            sasl_mechanisms=MECHANISMS if flag("smtpd_sasl_auth_enable") else (),
            sasl_auth_in_clear=not flag("smtpd_tls_auth_only")
            and "noplaintext" not in items("smtpd_sasl_security_options"),
            sasl_authenticated_header=flag("smtpd_sasl_authenticated_header"),
            sasl_response_limit=number("smtpd_sasl_response_limit"),
        )


def _verbs(words: Iterable[str]) -> frozenset[bytes]:
    return frozenset(word.upper().encode("ascii", "replace") for word in words)
