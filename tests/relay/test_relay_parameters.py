"""From main.cf to the client."""

from __future__ import annotations

import pytest
from relay_peers import HELLO, Lines, message
from test_relay_session import ONE

from resel_mta.config import Settings
from resel_mta.mail import Route
from resel_mta.maillog import MailLog
from resel_mta.wire.destination import port_number
from resel_relay.dns import Resolver
from resel_relay.parameters import read_parameters
from resel_relay.transport import SmtpTransport


def test_postfix_names_are_read():
    settings = Settings.build(
        role="relay",
        myhostname="p.resel.fr",
        inet_protocols="ipv4",
        smtp_tcp_port="2525",
        smtp_connect_timeout="5s",
        smtp_tls_security_level="encrypt",
        smtp_discard_ehlo_keywords="DSN, chunking",
        smtp_mx_address_limit="7",
        smtp_fallback_relay="[a] [b]",
    )
    found = read_parameters(settings, "smtp")
    assert (found.myhostname, found.helo_name, found.tcp_port) == ("p.resel.fr", "p.resel.fr", 2525)
    assert found.families == ("ipv4",)
    assert (found.connect_timeout, found.mx_address_limit) == (5, 7)
    assert found.tls_security_level == "encrypt"
    assert found.discard_ehlo_keywords == ("dsn", "chunking")
    assert found.fallback_relay == ("[a]", "[b]")


def test_lmtp_names_are_read():
    settings = Settings.build(
        myhostname="p.resel.fr", lmtp_lhlo_name="x.fr", lmtp_rcpt_timeout="9s"
    )
    found = read_parameters(settings, "lmtp")
    assert (found.protocol, found.helo_name, found.rcpt_timeout) == ("lmtp", "x.fr", 9)
    assert found.tcp_port == 24


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "no-such-service", "２５"])
def test_no_port(text):
    with pytest.raises(ValueError, match="neither a port"):
        port_number(text)


async def test_transport_from_settings_with_passwords(peer):
    server = await peer(
        "S: 220 x\nC: EHLO p.resel.fr\nS: 250-x\nS: 250-PIPELINING\nS: 250 AUTH PLAIN\n"
        "C: AUTH PLAIN AGpvZQBzZWNyZXQ=\nS: 235 2.7.0 ok\n" + ONE
    )
    hop = f"[127.0.0.1]:{server.port}"
    settings = Settings.build(
        myhostname="p.resel.fr",
        smtp_sasl_auth_enable="yes",
        smtp_sasl_password_maps="inline:{ { " + hop + " = joe:secret } }",
        smtp_sasl_security_options="noanonymous",
        smtp_tls_security_level="none",
    )
    transport = SmtpTransport("smtp", "smtp", settings, Resolver(), MailLog(Lines()))
    mail = message()
    outcomes = await transport.deliver(mail, mail.recipients, Route("smtp", hop, "relayhost"))
    assert [outcome.status for outcome in outcomes.values()] == ["sent"]
    await transport.close()


async def test_bad_settings_keep_the_old_ones(peer):
    server = await peer(HELLO.replace("me.test", "p.resel.fr") + ONE)
    settings = Settings.build(myhostname="p.resel.fr", smtp_tls_security_level="none")
    transport = SmtpTransport("smtp", "smtp", settings, Resolver(), MailLog(Lines()))
    with pytest.raises(OSError, match="No such file"):
        transport.reconfigure(
            Settings.build(smtp_tls_CAfile="/nonexistent", smtp_tls_security_level="may")
        )
    mail = message()
    route = Route("smtp", f"[127.0.0.1]:{server.port}", "relayhost")
    outcomes = await transport.deliver(mail, mail.recipients, route)
    assert [outcome.status for outcome in outcomes.values()] == ["sent"]
    await transport.close()
