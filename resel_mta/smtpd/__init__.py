"""SMTP in: sessions on aiosmtpd, access rules, trace fields, AUTH, TLS."""

from resel_mta.smtpd.service import ConnectionCounter, SmtpService

__all__ = ["ConnectionCounter", "SmtpService"]
