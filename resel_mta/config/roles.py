"""The roles: each is only a set of defaults, between main.cf and the table of parameters.

``service/parameter`` is a default of one listener, as everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

_TLS_WHEN_OFFERED = {"smtp_tls_security_level": "may"}
# Users log in before anything else is permitted.
_USERS_ONLY = {
    "smtpd_sasl_auth_enable": "yes",
    "smtpd_client_restrictions": "",
    "smtpd_helo_restrictions": "",
    "smtpd_sender_restrictions": "",
    "smtpd_recipient_restrictions": "",
    "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
    "local_header_rewrite_clients": "permit_sasl_authenticated",
}

ROLES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "smarthost": MappingProxyType(
            {
                "inet_interfaces": "loopback-only",
                "smtpd_listen": ":25",
                "local_header_rewrite_clients": "permit_mynetworks",
                **_TLS_WHEN_OFFERED,
            }
        ),
        "relay": MappingProxyType(
            {
                "inet_interfaces": "all",
                "smtpd_listen": ":25",
                **_TLS_WHEN_OFFERED,
            }
        ),
        "server": MappingProxyType(
            {
                "inet_interfaces": "all",
                "smtpd_listen": ":25",
                "submission_listen": ":587",
                "submissions_listen": ":465",
                "imap_listen": ":143",
                "imaps_listen": ":993",
                "mailbox_processes": "0",
                **_TLS_WHEN_OFFERED,
                **{f"submission/{name}": value for name, value in _USERS_ONLY.items()},
                **{f"submissions/{name}": value for name, value in _USERS_ONLY.items()},
            }
        ),
    }
)
DEFAULT_ROLE = "smarthost"

#: What kind of machine each is, in English and French.
KINDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "smarthost": (
            "a VM: mail of its own programs, all of it goes to the relay host (Postfix: satellite system)",
            "une VM : courrier de ses propres programmes, tout part au relais (Postfix : système satellite)",
        ),
        "relay": (
            "a relay such as Pégase: also mail of other machines, all of it goes to the relay host",
            "un relais comme Pégase : aussi le courrier d'autres machines, tout part au relais suivant",
        ),
        "server": (
            "a mail server such as Toad: mailboxes, mail for the world by MX (Postfix: Internet site)",
            "un serveur comme Toad : boîtes aux lettres, courrier vers le monde par MX (Postfix : site Internet)",
        ),
    }
)


def likely_role(relayhost: str, interfaces: Collection[str]) -> str:
    """What a machine of Postfix's is: it has a relayhost or not, and listens for others or not.
    interfaces: of inet_interfaces, () where it is not set."""
    if not relayhost:
        return "server"
    return "smarthost" if interfaces and "all" not in interfaces else "relay"
