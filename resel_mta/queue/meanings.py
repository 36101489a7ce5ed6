"""What a temporary failure, as the log and the listings have it, means to an administrator."""

from __future__ import annotations

SUSPENDED = "delivery temporarily suspended: "
"""How the reason of mail begins that was not tried, since its next hop is down."""

# Looked for in this order, in lower case: what is said first decides.
_MEANINGS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("greylist", "graylist", "greylisted"),
        "The other server makes senders it does not know wait. One of the next attempts will do.",
    ),
    (
        ("mailbox full", "over quota", "quota exceeded", "mailbox is full", "4.2.2"),
        "The recipient's mailbox is full. Only the recipient can help, or whoever runs that server.",
    ),
    (
        ("connection refused",),
        "The machine is up, but no mail server listens on that port: it is stopped, or a firewall "
        "refuses.",
    ),
    (
        ("connection timed out", "no route to host", "network is unreachable", "host is down"),
        "The machine does not answer: it is down, or a network or firewall in between drops us.",
    ),
    (
        ("timed out while", "lost connection with"),
        "The other server was reached, but stopped answering in the middle: overloaded, or a "
        "network in between breaks long connections (look at the MTU if it is always at the end "
        "of DATA).",
    ),
    (
        ("host not found, try again", "name service error", "name server", "4.4.3"),
        "A name could not be looked up. Check the name servers of this machine (dns_nameservers, "
        "/etc/resolv.conf).",
    ),
    (
        ("host not found", "host or domain name not found", "no host to try"),
        "The next hop's name is not in the DNS. Check its spelling (relayhost, transport_maps).",
    ),
    (
        ("loops back to myself",),
        "The next hop is this machine itself. Check relayhost, transport_maps, mydestination and "
        "the MX records.",
    ),
    (
        ("tls", "certificate", "starttls"),
        "No encrypted connection could be made as the configuration demands. Check the other "
        "server's certificate, smtp_tls_security_level and smtp_tls_CAfile.",
    ),
    (
        ("authentication failed", "authentication required"),
        "The next hop does not take our name and password. Check smtp_sasl_password_maps.",
    ),
    (
        ("insufficient system storage", "no space left", "4.3.1"),
        "A disk is full: the other server's if it said so, else this one's.",
    ),
    (
        (
            "too many connections",
            "too many concurrent",
            "rate limit",
            "too many messages",
            "4.7.28",
        ),
        "The other server wants less mail from us at a time. It is tried more slowly by itself; "
        "see default_destination_concurrency_limit and default_destination_rate_delay.",
    ),
    (
        ("blocked using", "blacklist", "blocklist", "listed by", "spamhaus", "reputation"),
        "The other server does not trust this machine's address. Look it up in the list that it "
        "names, and ask to be removed.",
    ),
    (
        ("internal error (reference",),
        "A fault of this program. The log has more under this reference; the mail is kept.",
    ),
    (
        ("alias database", "is not available yet", "_maps"),
        "A table of this machine could not be read, or holds what cannot be done. Run resel-mta "
        "check.",
    ),
)


def meaning(reason: str) -> str:
    """One or two plain sentences; "" where nothing helpful is known."""
    text = reason.lower()
    for needles, plain in _MEANINGS:
        if any(needle in text for needle in needles):
            return plain
    return ""
