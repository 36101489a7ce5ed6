"""`make install` and `make uninstall` on a machine with systemd and Postfix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from install_machine import CHECKOUT, Machine, machine

#: As Debian's package writes it for a satellite system.
POSTFIX = """\
smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
biff = no
append_dot_mydomain = no
readme_directory = no
compatibility_level = 3.6
smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination
myhostname = vm.adm.resel.fr
alias_maps = hash:/etc/aliases
alias_database = hash:/etc/aliases
mydestination = $myhostname, vm, localhost.localdomain, , localhost
relayhost = pegase.adm.resel.fr
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128
mailbox_size_limit = 0
recipient_delimiter = +
inet_interfaces = loopback-only
inet_protocols = all
"""
CERTIFICATE = """
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=toad.resel.fr \\
    -keyout /etc/ssl/private/resel.key -out /etc/ssl/resel.pem 2>&1
"""
#: Everything an installation may touch, but for what every command leaves.
LISTING = r"""
find /usr /etc /opt /var/spool /var/lib -xdev \
    \( -name __pycache__ -o -path /var/lib/systemd -o -path /etc/.pwd.lock \) -prune -o \
    -printf '%p %M %u %l\n' | sort
cat /etc/postfix/main.cf 2>/dev/null
dpkg-divert --list | sort
"""


def listing(there: Machine) -> set[str]:
    return set(there.run("sh", "-c", LISTING).stdout.splitlines())


def install(there: Machine) -> None:
    said = there.make("install", "ROLE=smarthost")
    assert "/usr/sbin/sendmail: what was there" in said
    assert "is kept as /usr/sbin/sendmail.before-resel-mta" in said
    assert "make uninstall" in said
    again = there.make("install", "ROLE=smarthost")
    assert "is this version already" in again
    assert "/usr/sbin/sendmail is resel-mta's already" in again
    assert "/etc/resel-mta/main.cf is there already: kept" in again


def serves_as_a_service(there: Machine) -> None:
    there.write("/etc/postfix/main.cf", POSTFIX)
    answers = ("--relayhost", "[pegase.adm.resel.fr]", "--root", "root@resel.fr")
    said = there.run("resel-mta", "setup", "--yes", *answers).stdout
    assert "Starting from Postfix's /etc/postfix/main.cf" in said
    assert "the aliases are live" in said
    assert "role smarthost, no errors" in said
    # Mail that was handed in before the first start is not lost.
    there.run("/usr/sbin/sendmail", "-f", "early@example.org", "root", text="Subject: early\n\n.\n")
    there.run("systemctl", "start", "resel-mta")
    assert "Type=notify" in there.run("systemctl", "cat", "resel-mta").stdout
    assert "role smarthost" in there.run("systemctl", "status", "resel-mta").stdout
    there.until("from=<early@example.org>")
    there.run("/usr/lib/sendmail", "-f", "later@example.org", "root", text="Subject: x\n\nx\n")
    # pegase.adm.resel.fr is not to be found in this network: it waits.
    there.until("to=<root@resel.fr>, orig_to=<root>, relay=none")
    assert there.run("mailq").stdout.count("root@resel.fr") == 2
    assert "smarthost" in there.run("resel-mta", "status").stdout
    there.run("newaliases")


def has_few_rights(there: Machine) -> None:
    show = there.run("systemctl", "show", "resel-mta", "-p", "MainPID", "--value").stdout.strip()
    (network,) = there.run("pgrep", "-P", show).stdout.split()
    status = there.run("cat", f"/proc/{network}/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    assert int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    mounts = there.run("cat", f"/proc/{network}/mounts").stdout.splitlines()
    options = {line.split()[1]: line.split()[3] for line in mounts}
    assert options["/"].startswith("ro")
    assert options["/var/spool/resel-mta"].startswith("rw")
    analysis = there.run("systemd-analyze", "security", "resel-mta.service", "--no-pager").stdout
    assert float(analysis.split("resel-mta.service:")[1].split()[0]) < 4


def reload_tells_what_is_wrong(there: Machine) -> None:
    there.run("resel-conf", "-e", "delay_warning_time=1h")
    there.run("systemctl", "reload", "resel-mta")
    there.run("resel-conf", "-e", "delay_warning_time=soon")
    assert there.run("systemctl", "reload", "resel-mta", check=False).returncode != 0
    there.until("is not a time")
    assert there.run("systemctl", "is-active", "resel-mta").stdout == "active\n"
    there.run("resel-conf", "-X", "delay_warning_time")


def a_bad_start_is_not_repeated(there: Machine) -> None:
    there.run("systemctl", "stop", "resel-mta")
    there.until("terminated: all that was accepted is delivered or queued")
    there.run("resel-conf", "-e", "queue_run_delay=soon")
    assert there.run("systemctl", "start", "resel-mta", check=False).returncode != 0
    shown = there.run("systemctl", "show", "resel-mta", "-p", "NRestarts", "-p", "ActiveState")
    assert set(shown.stdout.split()) == {"NRestarts=0", "ActiveState=failed"}
    there.run("resel-conf", "-X", "queue_run_delay")
    there.run("systemctl", "reset-failed", "resel-mta")
    there.run("systemctl", "start", "resel-mta")


def serves_mailboxes(there: Machine) -> None:
    """Role server on the same machine: keys that only root reads, mailboxes of vmail, commands."""
    assert "note: main.cf says role = smarthost" in there.make("install", "ROLE=server")
    there.run("cp", f"{CHECKOUT}/conf/server.cf", "/etc/resel-mta/main.cf")
    there.run("sh", "-c", CERTIFICATE)
    there.run("resel-conf", "-e", "smtpd_tls_cert_file=/etc/ssl/resel.pem")
    there.run("resel-conf", "-e", "smtpd_tls_key_file=/etc/ssl/private/resel.key")
    there.write("/etc/resel-mta/users", "lcarr:{PLAIN}secret:::::\n")
    command = '"|cat >/srv/out/mail; id -un >/srv/out/who"'
    there.write("/etc/aliases", f"root: lcarr\ntickets: {command}\nlog: /srv/out/log\n")
    there.run("install", "-d", "-o", "nobody", "/srv/out")
    there.run("systemctl", "restart", "resel-mta")
    for name in ("root", "tickets", "log"):
        there.run("sendmail", name, text=f"Subject: {name}\n\nx\n")
    there.until("to=<lcarr@resel.fr>, orig_to=<root>, relay=local")
    there.until("delivered to command")
    there.until("delivered to file")
    there.run("sh", "-c", "grep -q 'Subject: root' /var/vmail/lcarr/new/*")
    assert there.run("cat", "/srv/out/who").stdout == "nobody\n"
    assert "Subject: tickets" in there.run("cat", "/srv/out/mail").stdout
    assert "Subject: log" in there.run("cat", "/srv/out/log").stdout
    # Mail of before, for the outside, is tried at the start: there is no name server here.
    assert not re.search(r"@resel\.fr>.*status=deferred", there.journal().split("role server")[-1])
    owner = there.run("stat", "-c", "%U", "/var/vmail/lcarr/new").stdout
    assert owner == "vmail\n"
    client = "timeout 20 openssl s_client -quiet -connect 127.0.0.1:993 2>/dev/null"
    there.run("sh", "-c", f"printf 'a LOGOUT\\r\\n' | {client} | grep -q 'a OK'")


def uninstall(there: Machine) -> None:
    said = there.make("uninstall")
    assert "Messages still in the queue: " in said
    assert there.run("systemctl", "is-active", "resel-mta", check=False).stdout != "active\n"
    assert there.run("readlink", "/usr/bin/mailq").stdout == "../sbin/sendmail\n"
    assert there.run("resel-mta", "--version", check=False).returncode == 127


@pytest.mark.timeout(400)
def test_install_whole_life_of_a_service(tmp_path: Path) -> None:
    with machine(tmp_path) as there:
        install(there)
        there.boot()
        serves_as_a_service(there)
        has_few_rights(there)
        reload_tells_what_is_wrong(there)
        a_bad_start_is_not_repeated(there)
        serves_mailboxes(there)
        uninstall(there)


@pytest.mark.timeout(200)
def test_install_and_uninstall_leave_what_was_there(tmp_path: Path) -> None:
    with machine(tmp_path) as there:
        before = listing(there)
        said = there.make("install", "ROLE=server")
        assert "/etc/systemd/system/resel-mta.service.d/role.conf" in said
        assert there.run("stat", "-c", "%U %a", "/var/vmail").stdout == "vmail 750\n"
        verify = there.run("systemd-analyze", "verify", "resel-mta.service")
        assert "resel-mta" not in verify.stdout + verify.stderr
        # Another role later: its defaults of the service, too.
        said = there.make("install", "ROLE=relay")
        assert "note: main.cf says role = server" in said
        assert there.run("ls", "/etc/systemd/system").stdout.count("resel-mta") == 1
        there.make("uninstall")
        after = listing(there)
        assert before - after == set()
        kept = ("/etc/resel-mta", "/var/spool/resel-mta", "/var/lib/resel-mta")
        own = {line.split()[0] for line in after - before if not line.startswith(kept)}
        backups = {f"/etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow")}
        assert own <= {*backups, "/etc/sysusers.d"}
