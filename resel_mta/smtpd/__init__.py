"""SMTP in: sessions on aiosmtpd, access rules, trace fields, AUTH, TLS; LMTP on top of them."""

from resel_mta.smtpd.lmtp import LmtpService
from resel_mta.smtpd.names import NameFinder
from resel_mta.smtpd.service import ConnectionCounter, SmtpService

__all__ = ["ConnectionCounter", "LmtpService", "NameFinder", "SmtpService"]
