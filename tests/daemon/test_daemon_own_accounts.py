"""Mail for the mail system's own accounts waits for an alias, and `explain` and `check` say so before;
`explain` says the same to whoever asks."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_daemon_root import MAILBOXES, OWNER, Server
from workers_rig import until

NEWS, OTHER = "news", "bin"
pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root can start processes as other users"),
    pytest.mark.skipif(
        not {OWNER, MAILBOXES, NEWS, OTHER} <= {entry.pw_name for entry in pwd.getpwall()},
        reason=f"needs the accounts {OWNER}, {MAILBOXES}, {NEWS} and {OTHER}",
    ),
]
# As on a machine where users read their mail in the spool.
SETTINGS = """\
mail_location =
userdb = system
mail_spool_directory = {directory}/spool
default_privs = bin
"""
ROOTS = f"{OWNER} is the account that the mail system runs as: its mail needs an alias"
WORKERS = f"{MAILBOXES} is the account that mailboxes belong to: its mail needs an alias"


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="resel-own-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        spool = Path(name, "spool")
        spool.mkdir()
        os.chown(spool, 0, 8)
        spool.chmod(0o2775)
        running = Server(Path(name), SETTINGS.format(directory=name))
        yield running
        if running.process.poll() is None:
            running.stop()
        running.close()


def command(server: Server, module: str, *words: str, user: str = "root", data: str = "") -> Any:
    account = pwd.getpwnam(user)
    return subprocess.run(
        [sys.executable, "-P", "-m", f"resel_mta.commands.{module}", *words],
        input=data, capture_output=True, text=True, timeout=60, cwd="/", check=False,
        env=os.environ | {"RESEL_CONFIG": str(server.directory)},
        user=account.pw_uid, group=account.pw_gid, extra_groups=[],
    )  # fmt: skip


def end_of(server: Server, name: str, user: str) -> dict[str, Any]:
    done = command(server, "mta", "explain", "-j", name, user=user)
    assert done.returncode == 0, done.stderr
    (end,) = json.loads(done.stdout)["destinations"]
    return {each: end[each] for each in ("kind", "what", "account", "reply")}


def test_daemon_own_accounts_have_one_answer(server: Server) -> None:
    directory = server.directory
    wanted = {
        OWNER: {"kind": "wait", "what": "", "account": "", "reply": f"451 4.3.5 {ROOTS}"},
        MAILBOXES: {"kind": "wait", "what": "", "account": "", "reply": f"451 4.3.5 {WORKERS}"},
        NEWS: {"kind": "mbox", "what": f"{directory}/spool/{NEWS}", "account": NEWS, "reply": ""},
    }
    for name, end in wanted.items():
        for user in ("root", OTHER):
            found = end_of(server, name, user)
            found["reply"] = found["reply"].partition(", and default_privs")[0]
            assert found == end, (name, user)
    checked = command(server, "mta", "check")
    assert checked.returncode == 0, checked.stderr
    assert f"warning: mail_owner: {ROOTS}" in checked.stderr
    assert f"warning: mail_uid: {WORKERS}" in checked.stderr
    sent = command(
        server, "sendmail", "-C", str(directory), *wanted, user=OTHER, data="Subject: x\n\nhi\n"
    )
    assert sent.returncode == 0, sent.stderr
    until(lambda: server.log.read_text().count("status=") == 3)
    log = server.log.read_text()
    for name, text in (OWNER, ROOTS), (MAILBOXES, WORKERS):
        (line,) = [line for line in log.splitlines() if f"to=<{name}@" in line]
        assert "status=deferred" in line
        assert text in line
    assert (directory / "spool" / NEWS).read_text().count("Subject: x") == 1
    # Whoever reads the log knows what to do, and the mail is there.
    with (directory / "aliases").open("a") as aliases:
        aliases.write(f"{OWNER}: {NEWS}\n{MAILBOXES}: {NEWS}\n")
    assert command(server, "sendmail", "-C", str(directory), "-bi").returncode == 0
    assert "its mail needs" not in command(server, "mta", "check").stderr
    assert command(server, "queue", "-f").returncode == 0
    until(lambda: (directory / "spool" / NEWS).read_text().count("Subject: x") == 3)


def test_daemon_own_accounts_explain_names_what_it_could_not_read(server: Server) -> None:
    included = server.directory / "list"
    included.write_text(f"{NEWS}\n")
    included.chmod(0o600)
    with (server.directory / "aliases").open("a") as aliases:
        aliases.write(f"all: :include:{included}\n")
    assert command(server, "mta", "reload").returncode == 0
    said = command(server, "mta", "explain", "all").stdout
    assert f"=> {NEWS}@toad.resel.fr: into the mailbox (mbox file)" in said
    assert "may not read" not in said
    said = command(server, "mta", "explain", "all", user=OTHER).stdout
    assert f"{OTHER} may not read the tables that are live: these are their sources." in said
    assert said.endswith(f"and {OTHER} may not read them; ask as root:\n  {included}\n")
    assert "Decided as" not in said
    with (server.directory / "main.cf").open("a") as config:
        config.write(f"userdb = passwd-file:{server.directory}/users\n")
    (server.directory / "users").chmod(0o600)
    done = command(server, "mta", "explain", NEWS, user=OTHER)
    assert done.returncode == 77
    assert f"users: Permission denied; {OTHER} may not read it: ask as root" in done.stderr
    # Nobody runs: whose queue it is, is what there is to go by.
    assert server.stop() == 0
    done = command(server, "mta", "-o", "userdb=system", "explain", NEWS, user=OTHER)
    assert f"Decided as for a daemon that root starts, which runs as {OWNER}." in done.stdout
    mine = ("-o", "userdb=system", "-o", "queue_directory=/nonexistent/queue")
    done = command(server, "mta", *mine, "explain", NEWS, user=OTHER)
    assert f"Decided as for a daemon that {OTHER} starts." in done.stdout


def test_daemon_own_accounts_what_others_are_told_instead(server: Server) -> None:
    """Whoever is not root learns what he cannot do here, and who can."""
    config = server.directory / "main.cf"
    done = command(server, "mta")
    pid = server.network_pid()
    assert done.returncode == 69
    assert f"it runs already: role server, pid {pid} (resel-mta stop ends it)" in done.stderr
    done = command(server, "mta", "-o", "smtpd_listen=", "-o", "imap_listen=", user=OTHER)
    assert done.returncode == 73
    assert f"belongs to {OWNER}, but the daemon runs as {OTHER}; start it as root" in done.stderr
    done = command(server, "mta", "check", user=OTHER)
    assert done.returncode == 0, done.stderr
    assert "(as far as this user may look: root sees more)" in done.stdout
    (server.directory / "users").chmod(0o600)
    done = command(server, "mta", "check", user=OTHER)
    assert done.returncode == 78
    assert done.stderr.endswith("what this user may not read, the daemon may: ask as root\n")
    done = command(server, "sendmail", "-C", str(config), "-bi", user=OTHER)
    assert done.returncode == 77
    assert done.stderr.endswith("Permission denied; ask as root\n")
    config.chmod(0o600)
    done = command(server, "mta", "status", user=OTHER)
    assert done.returncode == 78
    assert "cannot be read: Permission denied (all who send mail must be able to" in done.stderr
    config.unlink()
    done = command(server, "mta", "status")
    assert "(resel-mta setup writes one; -c names another)" in done.stderr
