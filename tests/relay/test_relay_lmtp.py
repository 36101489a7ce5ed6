"""LMTP (RFC 2033): one reply per recipient after the content."""

from __future__ import annotations

HELLO = "S: 220 lmtp\nC: LHLO me.test\nS: 250-lmtp\nS: 250-PIPELINING\nS: 250 8BITMIME\n"
GO = "S: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: <content>\n"
THREE = HELLO + "C: MAIL\nC: RCPT TO:<a@x>\nC: RCPT TO:<b@x>\nC: RCPT TO:<c@x>\nC: DATA\n"


async def test_own_reply_for_each_accepted_recipient(peer, client, tmp_path):
    path = str(tmp_path / "lmtp")
    server = await peer(
        THREE + "S: 250 ok\nS: 250 ok\nS: 550 5.1.1 no\nS: 250 ok\nS: 354 go\nC: <content>\n"
        "S: 250 2.0.0 saved a\nS: 452 4.2.2 full",
        path=path,
    )
    a, b, c = await client(protocol="lmtp").send(f"unix:{path}", "a@x", "b@x", "c@x")
    assert (a.status, b.status, c.status) == ("sent", "bounced", "deferred")
    assert str(a.reply) == "250 2.0.0 saved a"
    assert "452 4.2.2 full (in reply to end of DATA command)" in c.reply.text
    assert a.relay == f"me.test[{path}]"
    assert len(server.contents) == 1


async def test_connection_lost_between_the_replies(peer, client):
    server = await peer(THREE + "S: 250 ok\n" + GO + "S: 250 2.0.0 saved a\nDROP")
    a, b, c = await client(protocol="lmtp").send(
        f"inet:127.0.0.1:{server.port}", "a@x", "b@x", "c@x"
    )
    assert (a.status, b.status, c.status) == ("sent", "deferred", "deferred")
    assert "message may be sent more than once" in b.reply.text
    assert server.sessions == 1


async def test_missing_socket_defers(client, tmp_path):
    (outcome,) = await client(protocol="lmtp").send(f"unix:{tmp_path}/none")
    assert (outcome.status, outcome.reply.enhanced) == ("deferred", "4.4.1")
    assert outcome.reply.text == (f"connect to me.test[{tmp_path}/none]: No such file or directory")
