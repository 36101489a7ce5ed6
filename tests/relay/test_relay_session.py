"""Dialogues with scripted servers: what is sent, and what each recipient's outcome is."""

from __future__ import annotations

import asyncio

import pytest
from relay_peers import HELLO, PLAIN_HELLO, message

from resel_mta.mail import Notify

MAIL = "C: MAIL FROM:<me@me.test>"
OK = "S: 250 2.1.0 Ok"
GO = "S: 354 End data with <CR><LF>.<CR><LF>"
QUEUED = "S: 250 2.0.0 Ok: queued as 123"
ONE = f"""
{MAIL}
C: RCPT TO:<user@example.org>
C: DATA
{OK}
{OK}
{GO}
C: <content>
{QUEUED}
"""


def nexthop(server) -> str:
    return f"[127.0.0.1]:{server.port}"


async def test_pipelined_delivery(peer, client):
    server = await peer(HELLO + ONE)
    (outcome,) = await client().send(nexthop(server))
    assert outcome.status == "sent"
    assert str(outcome.reply) == "250 2.0.0 Ok: queued as 123"
    assert outcome.relay == f"127.0.0.1[127.0.0.1]:{server.port}"
    assert outcome.host == "127.0.0.1"
    assert server.contents == [b"Subject: hi\r\n\r\n..dot\r\nbody\r\n.\r\n"]


async def test_envelope_is_one_write(peer, client):
    """The server answers only after DATA: without pipelining this would hang."""
    server = await peer(HELLO + ONE)
    (outcome,) = await asyncio.wait_for(client().send(nexthop(server)), 5)
    assert outcome.status == "sent"


async def test_without_pipelining_each_reply_is_awaited(peer, client):
    script = (
        f"{MAIL}\n{OK}\nC: RCPT TO:<user@example.org>\n{OK}\nC: DATA\n{GO}\nC: <content>\n{QUEUED}"
    )
    server = await peer(PLAIN_HELLO + script)
    (outcome,) = await client().send(nexthop(server))
    assert outcome.status == "sent"


async def test_connection_is_kept_and_quit_on_close(peer, client):
    server = await peer(HELLO + ONE + ONE + ONE)
    one = client()
    for _ in range(3):
        (outcome,) = await one.send(nexthop(server))
        assert outcome.status == "sent"
    assert server.sessions == 1
    await one.transport.close()
    await asyncio.wait_for(server.left.wait(), 5)
    assert server.lines[0][-1] == "QUIT"


async def test_kept_connection_that_died_is_replaced(peer, client):
    server = await peer(HELLO + ONE + MAIL + "\nDROP", HELLO + ONE)
    one = client()
    await one.send(nexthop(server))
    (outcome,) = await one.send(nexthop(server))
    assert outcome.status == "sent"
    assert server.sessions == 2
    assert "lost connection" not in one.lines.text


async def test_kept_connection_with_421_is_replaced(peer, client):
    server = await peer(HELLO + ONE + MAIL + "\nS: 421 4.4.2 timeout\nDROP", HELLO + ONE)
    one = client()
    await one.send(nexthop(server))
    (outcome,) = await one.send(nexthop(server))
    assert outcome.status == "sent"


async def test_recipients_have_their_own_outcomes(peer, client):
    server = await peer(
        HELLO
        + f"""{MAIL}
C: RCPT TO:<a@x.org>
C: RCPT TO:<b@x.org>
C: RCPT TO:<c@x.org>
C: DATA
{OK}
S: 550-5.1.1 <a@x.org>: unknown
S: 550 5.1.1 see postmaster
{OK}
S: 452 4.2.2 <c@x.org>: full
{GO}
C: <content>
{QUEUED}
"""
    )
    a, b, c = await client().send(nexthop(server), "a@x.org", "b@x.org", "c@x.org")
    assert (a.status, b.status, c.status) == ("bounced", "sent", "deferred")
    assert a.reply.text == (
        "host 127.0.0.1[127.0.0.1] said: 550-5.1.1 <a@x.org>: unknown 550 5.1.1 see postmaster "
        "(in reply to RCPT TO command)"
    )
    assert a.reply.enhanced == "5.1.1"
    assert a.diagnostic == "550-5.1.1 <a@x.org>: unknown 550 5.1.1 see postmaster"
    assert c.reply.enhanced == "4.2.2"
    assert not c.host_down


async def test_all_recipients_refused_but_data_accepted(peer, client):
    """The lone dot, then RSET before the next message."""
    server = await peer(
        HELLO
        + f"""{MAIL}
C: RCPT TO:<a@x.org>
C: DATA
{OK}
S: 550 no
{GO}
C: <content>
S: 554 5.5.1 no valid recipients
C: RSET
{OK}
"""
        + ONE
    )
    one = client()
    (first,) = await one.send(nexthop(server), "a@x.org")
    (second,) = await one.send(nexthop(server))
    assert first.status == "bounced"
    assert first.reply.enhanced == "5.0.0"
    assert second.status == "sent"
    assert server.contents[0] == b".\r\n"
    assert server.sessions == 1


async def test_data_refused_after_refused_recipients_needs_rset(peer, client):
    server = await peer(
        HELLO
        + f"{MAIL}\nC: RCPT TO:<a@x.org>\nC: DATA\n{OK}\nS: 550 no\nS: 503 none\nC: RSET\n{OK}"
        + ONE
    )
    one = client()
    await one.send(nexthop(server), "a@x.org")
    (second,) = await one.send(nexthop(server))
    assert second.status == "sent"
    assert server.sessions == 1


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        (
            "S: 550 5.7.1 go\nS: 503 x\nS: 503 x",
            "bounced",
            "550 5.7.1 go (in reply to MAIL FROM command)",
        ),
        (
            "S: 451 4.3.0 later\nS: 503 x\nS: 503 x",
            "deferred",
            "451 4.3.0 later (in reply to MAIL FROM command)",
        ),
        (f"{OK}\n{OK}\nS: 554 5.3.0 no", "bounced", "554 5.3.0 no (in reply to DATA command)"),
        (f"{OK}\n{OK}\nS: 451 no", "deferred", "451 no (in reply to DATA command)"),
        (
            f"{OK}\n{OK}\n{GO}\nC: <content>\nS: 550 5.7.1 spam",
            "bounced",
            "550 5.7.1 spam (in reply to end of DATA command)",
        ),
        (
            f"{OK}\n{OK}\n{GO}\nC: <content>\nS: 451 4.7.1 wait",
            "deferred",
            "451 4.7.1 wait (in reply to end of DATA command)",
        ),
        (f"{OK}\n{OK}\nS: 250 odd", "deferred", "Protocol error: host"),
    ],
)
async def test_refusal_at_each_stage(peer, client, script, status, text):
    server = await peer(HELLO + f"{MAIL}\nC: RCPT TO:<user@example.org>\nC: DATA\n" + script)
    (outcome,) = await client().send(nexthop(server))
    assert outcome.status == status
    assert text in outcome.reply.text


@pytest.mark.parametrize(
    ("script", "stage"),
    [
        ("DROP", "receiving the initial server greeting"),
        ("S: 220 hi\nC: EHLO\nDROP", "performing the EHLO handshake"),
        (HELLO + f"{MAIL}\nC: RCPT\nC: DATA\nDROP", "sending MAIL FROM"),
        (HELLO + f"{MAIL}\nC: RCPT\nC: DATA\n{OK}\nDROP", "sending RCPT TO"),
        (HELLO + f"{MAIL}\nC: RCPT\nC: DATA\n{OK}\n{OK}\nDROP", "sending DATA command"),
        (
            HELLO + f"{MAIL}\nC: RCPT\nC: DATA\n{OK}\n{OK}\n{GO}\nC: <content>\nDROP",
            "sending end of data -- message may be sent more than once",
        ),
        (PLAIN_HELLO + f"{MAIL}\nDROP", "sending MAIL FROM"),
        (PLAIN_HELLO + f"{MAIL}\n{OK}\nC: RCPT\nDROP", "sending RCPT TO"),
        (PLAIN_HELLO + f"{MAIL}\n{OK}\nC: RCPT\n{OK}\nC: DATA\nDROP", "sending DATA command"),
    ],
)
async def test_drop_at_each_stage(peer, client, script, stage):
    server = await peer(script)
    (outcome,) = await client().send(nexthop(server))
    assert outcome.status == "deferred"
    assert outcome.reply.enhanced == "4.4.2"
    assert outcome.reply.text == f"lost connection with 127.0.0.1[127.0.0.1] while {stage}"


async def test_drop_inside_a_large_body(peer, client):
    server = await peer(HELLO + f"{MAIL}\nC: RCPT\nC: DATA\n{OK}\n{OK}\n{GO}\nC: Subject\nRESET")
    mail = message(data=b"Subject: big\r\n\r\n" + (b"x" * 70 + b"\r\n") * 200_000)
    (outcome,) = await client().send(nexthop(server), mail=mail)
    assert outcome.reply.text.endswith("while sending message body")


async def test_reply_before_the_body_is_complete_counts(peer, client):
    server = await peer(
        HELLO
        + f"{MAIL}\nC: RCPT\nC: DATA\n{OK}\n{OK}\n{GO}\nC: Subject\nS: 552 5.3.4 too big\nDROP"
    )
    mail = message(data=b"Subject: big\r\n\r\n" + (b"x" * 70 + b"\r\n") * 200_000)
    (outcome,) = await client().send(nexthop(server), mail=mail)
    assert outcome.status in ("bounced", "deferred")
    if outcome.status == "bounced":
        assert "552 5.3.4 too big" in outcome.reply.text


@pytest.mark.parametrize(
    ("script", "stage"),
    [
        ("STALL", "receiving the initial server greeting"),
        (HELLO + f"{MAIL}\nC: RCPT\nC: DATA\nSTALL", "sending MAIL FROM"),
        (
            HELLO + f"{MAIL}\nC: RCPT\nC: DATA\n{OK}\n{OK}\n{GO}\nC: <content>\nSTALL",
            "sending end of data -- message may be sent more than once",
        ),
    ],
)
async def test_silent_server(peer, client, script, stage):
    server = await peer(script)
    one = client(
        helo_timeout=0.1,
        mail_timeout=0.1,
        rcpt_timeout=0.1,
        data_init_timeout=0.1,
        data_done_timeout=0.1,
    )
    (outcome,) = await one.send(nexthop(server))
    assert outcome.reply.text == (f"conversation with 127.0.0.1[127.0.0.1] timed out while {stage}")


@pytest.mark.parametrize(
    "junk", ["RAW hello\\r\\n", "RAW \\x00\\xff\\r\\n", "RAW 250", "RAW 2", "RAW 999 x\\r\\n"]
)
async def test_junk_replies_defer(peer, client, junk):
    server = await peer(HELLO + f"{MAIL}\nC: RCPT\nC: DATA\n{junk}\nDROP")
    (outcome,) = await client().send(nexthop(server))
    assert outcome.status == "deferred"


async def test_endless_reply_is_cut_off(peer, client):
    line = "250-" + "x" * 1000 + "\\r\\n"
    server = await peer("S: 220 hi\nC: EHLO\nRAW " + line * 100 + "\nSTALL")
    (outcome,) = await asyncio.wait_for(client().send(nexthop(server)), 5)
    assert outcome.status == "deferred"
    assert "over-long reply" in outcome.reply.text


@pytest.mark.parametrize("greeting", ["421 4.3.2 busy", "554 5.7.1 go away"])
async def test_refusing_greeting_defers(peer, client, greeting):
    server = await peer(f"S: {greeting}\nDROP")
    (outcome,) = await client().send(nexthop(server), origin="recipient")
    assert outcome.status == "deferred"
    assert outcome.host_down
    assert outcome.reply.text == f"host 127.0.0.1[127.0.0.1] refused to talk to me: {greeting}"


async def test_helo_fallback(peer, client):
    script = f"S: 220 old\nC: EHLO\nS: 502 what\nC: HELO me.test\nS: 250 old\n{MAIL}\n{OK}\nC: RCPT\n{OK}\nC: DATA\n{GO}\nC: <content>\n{QUEUED}"
    server = await peer(script)
    (outcome,) = await client().send(nexthop(server))
    assert outcome.status == "sent"


def ehlo(*extensions: str) -> str:
    lines = ["S: 220 mx.test", "C: EHLO", "S: 250-mx.test"]
    lines += [f"S: 250-{word}" for word in extensions]
    return "\n".join([*lines, "S: 250 PIPELINING"]) + "\n"


async def test_size_limit_of_the_server_bounces(peer, client):
    server = await peer(ehlo("SIZE 20") + "STALL")
    (outcome,) = await client().send(nexthop(server))
    assert outcome.status == "bounced"
    assert outcome.reply.enhanced == "5.3.4"
    assert outcome.reply.text == (
        "message size 27 exceeds size limit 20 of server 127.0.0.1[127.0.0.1]"
    )
    assert server.lines[0] == ["EHLO me.test"]


async def test_mail_parameters(peer, client):
    server = await peer(ehlo("SIZE", "8BITMIME", "SMTPUTF8", "DSN") + ONE)
    mail = message(
        data="Subject: é\r\n\r\nx\r\n".encode(), ret="HDRS", envid="QQ314", smtputf8=True
    )
    mail.envelope.recipients[0].orcpt = "rfc822;Bob@x.org"
    mail.envelope.recipients[0].notify = Notify.SUCCESS | Notify.DELAY
    (outcome,) = await client().send(nexthop(server), mail=mail)
    assert outcome.status == "sent"
    assert outcome.dsn_capable
    assert server.lines[0][1:3] == [
        "MAIL FROM:<me@me.test> SIZE=18 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ314",
        "RCPT TO:<user@example.org> ORCPT=rfc822;Bob@x.org NOTIFY=SUCCESS,DELAY",
    ]


async def test_members_of_a_list_get_nothing_of_what_its_author_asked_for(peer, client):
    """RFC 3461 §5.2.7.1; the author's own recipients do, though the list's owner is the same."""
    member = ONE.replace("user@example.org", "member@x.org")
    server = await peer(ehlo("DSN") + f"{ONE}\n{member}")
    mail = message("user@example.org", "member@x.org", ret="HDRS", envid="QQ314")
    for each in mail.recipients:
        each.orig_to = "list@me.test"
    mail.recipients[1].reverse_path = mail.envelope.reverse_path
    outcomes = await client().send(nexthop(server), mail=mail)
    assert [outcome.status for outcome in outcomes] == ["sent", "sent"]
    said = [line for lines in server.lines for line in lines if line[:4] in ("MAIL", "RCPT")]
    assert said == [
        "MAIL FROM:<me@me.test> RET=HDRS ENVID=QQ314",
        "RCPT TO:<user@example.org> ORCPT=rfc822;list@me.test",
        "MAIL FROM:<me@me.test>",
        "RCPT TO:<member@x.org>",
    ]


async def test_eight_bit_content_needs_8bitmime(peer, client):
    server = await peer(ehlo() + "STALL")
    mail = message(data=b"Subject: x\r\n\r\n\xc3\xa9\r\n")
    (outcome,) = await client().send(nexthop(server), mail=mail)
    assert outcome.status == "bounced"
    assert outcome.reply.enhanced == "5.6.3"


async def test_seven_bit_content_declared_as_8bitmime_passes(peer, client):
    server = await peer(ehlo() + ONE)
    (outcome,) = await client().send(nexthop(server), mail=message(body="8BITMIME"))
    assert outcome.status == "sent"
    assert server.lines[0][1] == "MAIL FROM:<me@me.test>"


async def test_smtputf8_needed_but_not_offered(peer, client):
    server = await peer(ehlo("8BITMIME") + "STALL")
    mail = message("jö@example.org", smtputf8=True)
    (outcome,) = await client().send(nexthop(server), mail=mail)
    assert (outcome.status, outcome.reply.enhanced) == ("bounced", "5.6.7")


async def test_smtputf8_asked_but_not_needed(peer, client):
    server = await peer(ehlo("8BITMIME") + ONE)
    (outcome,) = await client().send(nexthop(server), mail=message(smtputf8=True))
    assert outcome.status == "sent"


async def test_each_reverse_path_has_its_own_transaction(peer, client):
    script = f"C: MAIL FROM:<owner@me.test>\nC: RCPT TO:<b@x.org>\nC: DATA\n{OK}\n{OK}\n{GO}\nC: <content>\n{QUEUED}\n"
    server = await peer(HELLO + ONE.replace("user@example.org", "a@x.org") + script)
    mail = message("a@x.org", "b@x.org")
    mail.envelope.recipients[1].reverse_path = "owner@me.test"
    outcomes = await client().send(nexthop(server), mail=mail)
    assert [outcome.status for outcome in outcomes] == ["sent", "sent"]
    assert server.sessions == 1


async def test_unasked_words_on_an_idle_connection_end_it(peer, client):
    server = await peer(HELLO + ONE + "RAW 250 2.0.0 Ok: queued as fake\\r\\n", HELLO + ONE)
    one = client()
    await one.send(nexthop(server))
    await asyncio.wait_for(server.left.wait(), 5)
    (outcome,) = await one.send(nexthop(server))
    assert str(outcome.reply) == "250 2.0.0 Ok: queued as 123"
    assert server.sessions == 2


class BrokenBody:
    """A file of the queue whose disk fails half-way."""

    size = 300_000
    in_memory = False

    def read(self, offset: int, length: int) -> bytes:
        if offset > 100_000:
            raise OSError(5, "Input/output error")
        return (b"x" * 62 + b"\r\n") * (length // 64)


async def test_unreadable_body_never_looks_complete(peer, client):
    server = await peer(HELLO + f"{MAIL}\nC: RCPT\nC: DATA\n{OK}\n{OK}\n{GO}\nSTALL")
    mail = message()
    mail.content.body = BrokenBody()
    (outcome,) = await client().send(nexthop(server), mail=mail)
    assert (outcome.status, outcome.reply.enhanced) == ("deferred", "4.3.0")
    await asyncio.wait_for(server.left.wait(), 5)
    assert "." not in server.lines[0]
