"""The queue as ordinary users see it: they list it and have it tried again, as with Postfix."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time

from sendmail_daemon import OTHER, Daemon, needs_root

from resel_mta.public_queue import MOST_OF_ONE


@needs_root
def test_sendmail_queue_everybody_lists_and_flushes(daemon: Daemon) -> None:
    """As with Postfix's postqueue, and no more than that."""
    daemon.start()
    daemon.run("root")
    daemon.await_log("status=deferred")
    listed = daemon.run("-bp", data=b"", uid=OTHER.pw_uid)
    assert (listed.returncode, listed.stdout) == (0, daemon.run("-bp", data=b"").stdout)
    assert "lcarr@resel.fr" in listed.stdout
    (queue_id,) = (
        json.loads(line)["queue_id"]
        for line in daemon.queue_command("-j", uid=OTHER.pw_uid).stdout.splitlines()
    )
    tries = daemon.log.read_text().count("status=deferred")
    for words in (("-q",), ("-qRresel.fr",), (f"-qI{queue_id}",)):
        done = daemon.run(*words, data=b"", uid=OTHER.pw_uid)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        tries += 1
        until = time.monotonic() + 60
        while daemon.log.read_text().count("status=deferred") < tries:
            assert time.monotonic() < until, words
            time.sleep(0.02)
    for words in (
        ("-b", queue_id), ("why", queue_id), ("-d", queue_id), ("-h", "ALL"), ("audit",),
        ("-p", "trash"), ("-p", "--subject", "x"),
    ):  # fmt: skip
        refused = daemon.queue_command(*words, uid=OTHER.pw_uid)
        assert (refused.returncode, refused.stdout) == (77, ""), words
        assert len(refused.stderr.splitlines()) == 1
    assert len(daemon.run("-bp", data=b"").stdout.splitlines()) > 2
    daemon.stop()
    for words, wanted in (("-bp",), "listed"), (("-q",), "flushed"):
        down = daemon.run(*words, data=b"", uid=OTHER.pw_uid)
        assert down.returncode == 69
        assert f"the queue cannot be {wanted}: the mail system is down" in down.stderr


@needs_root
def test_sendmail_queue_lists_of_who_may(daemon: Daemon) -> None:
    names = daemon.directory / "who"
    names.write_text(f"{OTHER.pw_name}\n")
    with (daemon.directory / "main.cf").open("a") as config:
        config.write(f"authorized_mailq_users = !bin, {names}, unknown\nauthorized_flush_users =\n")
    daemon.start()
    assert daemon.run("-bp", uid=OTHER.pw_uid).returncode == 0
    assert daemon.run("-bp", uid=2).returncode == 77
    assert daemon.run("-bp", uid=54321).returncode == 0
    assert daemon.run("-q").returncode == 0
    refused = daemon.run("-q", uid=OTHER.pw_uid)
    assert refused.returncode == 77
    said = f"User {OTHER.pw_name}({OTHER.pw_uid}) is not allowed to flush the mail queue"
    assert said in refused.stderr
    names.write_text("nobody-else\n")
    done = subprocess.run(
        [sys.executable, "-m", "resel_mta.commands.mta", "-c", str(daemon.directory), "reload"],
        timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert daemon.run("-bp", uid=OTHER.pw_uid).returncode == 77


@needs_root
def test_sendmail_queue_the_public_queue_bears_anything(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.queue / "public" / "queue"
    for data in (
        b"", b"\n", b"[]\n", b"{}\n", b"[" * 60000 + b"\n", b"\xff\n", b"x" * 100_000,
        b'{"verb": "queue.walk", "octets": 1e999}\n',
        b'{"verb": "queue.walk", "octets": -1}\n',
        b'{"verb": "queue.walk", "args": {"select": 5}}\n',
        b'{"verb": "queue.walk", "args": {"queue": {"x": 1}}}\n',
        b'{"verb": "queue.walk", "args": {"select": {"sender": 5}}}\n',
        b'{"verb": "queue.walk", "args": {"select": {"older": "5"}}}\n',
        b'{"verb": "queue.walk", "args": {"select": {"sender": "%s"}}}\n' % (b"*a" * 15000),
        b'{"verb": "queue.flush", "args": {"id": []}}\n', b'{"verb": "queue.flush", "args": {"site": 5}}\n',
        b'{"verb": "daemon.stop"}\n', b'{"verb": "queue.change", "args": {"action": "delete"}}\n',
    ):  # fmt: skip
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(path))
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda c=client: c.recv(65536), b""))  # type: ignore[misc]
        assert answer.endswith(b"}\n"), data[:60]
        assert b'"row"' not in answer
        assert b'"error"' in answer or b"queue.walk" in data
        assert b"failed" not in answer
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(MOST_OF_ONE)]
        for each in idle:
            each.connect(str(path))
        # None of the same user, but another's.
        until = time.monotonic() + 60
        while daemon.run("-bp", uid=OTHER.pw_uid).returncode != 0:
            assert time.monotonic() < until
    assert "Traceback" not in daemon.log.read_text()
