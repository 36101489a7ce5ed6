"""Three hosts for real: own networks, port 25, a DNS server, the files of conf/ as they are.

Debian's own cron, bsd-mailx and mutt use the mail system; a Postfix is the outside world.
"""

from __future__ import annotations

import email
import email.policy
import filecmp
import imaplib
import shlex
import smtplib
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from resel_lan import PASSWORD, ReselLan
from varied_mails import body_of, header_of

from demo.launcher import CHECKOUT

pytestmark = pytest.mark.usefixtures("namespaces")
COUNT = 200
# So many of them by the sendmail command, a process each; the others by SMTP on the VM.
BY_COMMAND = 20


@pytest.fixture
def inbox(hosts: ReselLan) -> Iterator[imaplib.IMAP4_SSL]:
    """lcarr's INBOX, emptied before, read from outside with the certificate checked."""
    with log_in(hosts) as client:
        if client.select("INBOX")[1] != [b"0"]:
            client.store("1:*", "+FLAGS", "\\Deleted")
            client.expunge()
        yield client


def log_in(hosts: ReselLan) -> imaplib.IMAP4_SSL:
    context = ssl.create_default_context(cafile=str(hosts.certificate))
    # The name that the certificate has; here it is looked up by the machine's own resolver.
    context.check_hostname = False
    with hosts.stranger.network():
        client = imaplib.IMAP4_SSL("192.0.2.25", 993, ssl_context=context, timeout=20)
    client.login("lcarr", PASSWORD)
    client.select("INBOX")
    return client


def await_messages(client: imaplib.IMAP4_SSL, count: int, timeout: float = 60) -> None:
    until = time.monotonic() + timeout
    found = 0
    while found < count:
        assert time.monotonic() < until, f"{found} of {count} messages"
        time.sleep(0.05)
        client.noop()
        found = int(client.select("INBOX")[1][0] or b"0")
    assert found == count


def messages(client: imaplib.IMAP4_SSL) -> list[bytes]:
    _, parts = client.fetch("1:*", "(BODY.PEEK[])")
    return [part[1] for part in parts if isinstance(part, tuple)]


def test_system_hosts_use_the_files_of_conf_unchanged(hosts: ReselLan) -> None:
    for machine in hosts.machines:
        ours = CHECKOUT / "conf" / f"{machine.role}.cf"
        assert filecmp.cmp(ours, machine.etc / "resel-mta/main.cf", shallow=False)
        assert machine.check("resel-mta", "check").endswith("no errors\n")
    assert hosts.vm.check("resel-conf", "-h", "myhostname") == "vm1.adm.resel.fr\n"


def test_system_hosts_cron_writes_to_root(
    hosts: ReselLan, inbox: imaplib.IMAP4_SSL, need: Callable[[str], str]
) -> None:
    """The real cron, with a job for its start; it calls /usr/sbin/sendmail by itself."""
    cron = need("cron")
    vm = hosts.vm
    (vm.var / "spool/cron/crontabs").mkdir(parents=True, exist_ok=True)
    (vm.etc / "crontab").write_text("@reboot root printf 'sauvegarde terminée\\n.\\nfin\\n'\n")
    with (vm.var / "log/cron.log").open("wb") as output:
        process = vm.spawn(cron, "-f", output=output)
        await_messages(inbox, 1)
        vm.check("sh", "-c", "kill $(cat /run/crond.pid)")
        process.wait(20)
    (raw,) = messages(inbox)
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert b"\r\nFrom: root@vm1.adm.resel.fr (Cron Daemon)\r\n" in raw
    assert message["Return-Path"] == "<root@vm1.adm.resel.fr>"
    assert message["Subject"].startswith("Cron <root@vm1> printf")
    assert message["Delivered-To"] == "lcarr@resel.fr"
    assert raw.endswith("\r\n\r\nsauvegarde terminée\r\n.\r\nfin\r\n".encode())
    received = [" ".join(str(field).split()) for field in message.get_all("Received", [])]
    assert len(received) == 3
    assert received[2].startswith("by vm1.adm.resel.fr (resel-mta, from userid 0) id ")
    assert "from pegase.adm.resel.fr (" in received[0]
    assert "[10.0.1.25]) by toad.resel.fr (resel-mta) with ESMTPS id " in received[0]
    asked = hosts.lan.queries
    # In brackets: no MX question. Without: one.
    assert ("10.0.2.11", "pegase.adm.resel.fr.", "A") in asked
    assert [each for each in asked if each[0] == "10.0.2.11" and each[2] == "MX"] == []
    assert ("10.0.1.25", "resel.fr.", "MX") in asked


def test_system_hosts_a_user_writes_with_mail(
    hosts: ReselLan, inbox: imaplib.IMAP4_SSL, need: Callable[[str], str]
) -> None:
    """bsd-mailx, as an ordinary user of the VM; then again while the VM's daemon is down."""
    mail = need("bsd-mailx")
    vm = hosts.vm
    text = "Ça marche.\n.\n"
    done = vm.run(mail, "-s", "Été", "root", data=text.encode(), user="games")
    assert (done.returncode, done.stderr) == (0, "")
    await_messages(inbox, 1)
    assert vm.stop_daemon() == 0
    done = vm.run(mail, "-s", "daemon down", "root", data=text.encode(), user="games")
    assert (done.returncode, done.stderr) == (0, "")
    vm.start_daemon()
    await_messages(inbox, 2)
    for raw in messages(inbox):
        assert b"\r\nReturn-Path: <games@vm1.adm.resel.fr>\r\n" in b"\r\n" + raw
        assert b"(resel-mta, from userid 5)" in raw
        assert "\r\n\r\nÇa marche.\r\n".encode() in raw


def test_system_hosts_two_hundred_varied_mails_arrive_unchanged_and_once(
    hosts: ReselLan, inbox: imaplib.IMAP4_SSL
) -> None:
    vm = hosts.vm
    for number in range(BY_COMMAND):
        data = (header_of(number) + body_of(number)).replace(b"\r\n", b"\n")
        done = vm.run("/usr/sbin/sendmail", "-i", "-B8BITMIME", "root", data=data)
        assert (done.returncode, done.stderr) == (0, "")
    with vm.network():
        client = smtplib.SMTP("127.0.0.1", 25, local_hostname="localhost", timeout=30)
    with client:
        client.ehlo()
        for number in range(BY_COMMAND, COUNT):
            client.mail("cron@vm1.adm.resel.fr", ["BODY=8BITMIME", "SMTPUTF8"])
            client.rcpt("root@resel.fr")
            code, text = client.data(header_of(number) + body_of(number))
            assert code == 250, text
    await_messages(inbox, COUNT)
    found: dict[int, list[bytes]] = {}
    for raw in messages(inbox):
        header, _, body = raw.partition(b"\r\n\r\n")
        number = int(email.message_from_bytes(header)["X-Number"])
        found.setdefault(number, []).append(body)
    assert sorted(found) == list(range(COUNT))
    assert [number for number in found if found[number] != [body_of(number)]] == []


def test_system_hosts_toad_down_pegase_keeps_the_mail(
    hosts: ReselLan, inbox: imaplib.IMAP4_SSL
) -> None:
    vm, pegase, toad = hosts.machines
    assert toad.stop_daemon() == 0
    mark = len(pegase.log())
    vm.check("/usr/sbin/sendmail", "-i", "root", data=b"Subject: wait\n\nToad is down\n")
    match = pegase.await_log(
        r"\b(\w+): to=<root@resel\.fr>, relay=none, .* status=deferred \((.*)\)$", start=mark
    )
    assert "connect to toad.resel.fr[192.0.2.25]:25: Connection refused" in match[2]
    listing = pegase.queue()
    assert listing.startswith(
        f"-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------\n{match[1]}"
    )
    assert "root@resel.fr" in listing
    assert listing.endswith("in 1 Request.")
    assert vm.queue() == "Mail queue is empty"
    toad.start_daemon()
    pegase.check("resel-queue", "-f")
    pegase.await_log(rf"{match[1]}: to=<root@resel\.fr>, .* status=sent", start=mark)
    pegase.await_empty_queue()
    with log_in(hosts) as client:
        await_messages(client, 1)
        assert b"Toad is down" in messages(client)[0]


def test_system_hosts_mail_between_inside_and_outside(
    hosts: ReselLan, inbox: imaplib.IMAP4_SSL
) -> None:
    """A real Postfix is the MX of two domains; one is reached by IPv6, at the second host."""
    vm, stranger = hosts.vm, hosts.stranger
    for domain, mailbox in (("example.org", "org"), ("example.net", "net")):
        subject = f"Subject: to {domain}\n\nBonjour dehors, à {domain}\n".encode()
        vm.check("/usr/sbin/sendmail", "-B8BITMIME", f"friend@{domain}", data=subject)
        mail = stranger.await_mail(mailbox, f"Subject: to {domain}\n".encode())
        assert f"\n\nBonjour dehors, à {domain}\n".encode() in mail
        assert b"by toad.resel.fr (resel-mta)" in mail
        assert b"by mx.example.org (Postfix) with ESMTPS id" in mail
    asked = [each for each in hosts.lan.queries if each[1:] == ("example.org.", "MX")]
    assert {each[0] for each in asked} == {"192.0.2.25"}

    answer = b"From: friend@example.org\nSubject: answer\n\nR\xc3\xa9ponse\n"
    stranger.check("/usr/sbin/sendmail", "-B8BITMIME", "root@resel.fr", data=answer)
    await_messages(inbox, 1)
    (raw,) = messages(inbox)
    assert raw.endswith("\r\n\r\nRéponse\r\n".encode())
    assert b"from mx.example.org (" in raw


def test_system_hosts_outside_mail_for_nobody_is_refused(hosts: ReselLan) -> None:
    """Refused at RCPT, so that the stranger's own server tells its sender; and no open relay."""
    stranger = hosts.stranger
    mail = b"Subject: lost\n\nx\n"
    stranger.check("/usr/sbin/sendmail", "-ffriend@example.org", "nosuchuser@resel.fr", data=mail)
    bounce = stranger.await_mail("org", b"Subject: Undelivered Mail Returned to Sender")
    words = b" ".join(bounce.split())
    assert b"550 5.1.1 <nosuchuser@resel.fr>: Recipient address rejected: User unknown in" in words
    with stranger.network():
        client = smtplib.SMTP("192.0.2.25", 25, local_hostname="mx.example.org", timeout=20)
    with client:
        client.ehlo()
        client.mail("friend@example.org")
        assert client.rcpt("someone@example.com") == (
            554, b"5.7.1 <someone@example.com>: Relay access denied",
        )  # fmt: skip


def test_system_hosts_mutt_reads_and_writes(
    hosts: ReselLan, inbox: imaplib.IMAP4_SSL, need: Callable[[str], str]
) -> None:
    """On Toad: IMAP and submission under TLS, the certificate and its name checked by mutt."""
    mutt = need("mutt")
    toad = hosts.toad
    hosts.vm.check("/usr/sbin/sendmail", "root", data=b"Subject: for mutt\n\nread me\n")
    await_messages(inbox, 1)
    home = toad.var / "tmp/mutt"
    home.mkdir()
    rc = home / "muttrc"
    rc.write_text(
        f'set imap_user=lcarr\nset imap_pass="{PASSWORD}"\nset smtp_pass="{PASSWORD}"\n'
        "set ssl_force_tls=yes\nset certificate_file=/var/tmp/mutt/ca\n"
        "set smtp_url=smtps://lcarr@toad.resel.fr:465/\nset from=lcarr@resel.fr\n"
        "set folder=imaps://toad.resel.fr/\nset spoolfile=imaps://toad.resel.fr/INBOX\n"
        "set wait_key=no\nset quit=yes\nset timeout=1\nset mark_old=no\nset copy=no\n"
    )
    (home / "ca").write_bytes(hosts.certificate.read_bytes())
    run = [mutt, "-n", "-F", "/var/tmp/mutt/muttrc"]
    push = 'push "<first-entry><pipe-message>cat > /var/tmp/mutt/piped<enter><exit>"'
    # It reads from a terminal only.
    done = toad.run(
        "timeout", "20", "script", "-qec", shlex.join([*run, "-e", push]), "/dev/null",
        environment={"TERM": "xterm"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "read me" in (home / "piped").read_text()
    words = [*run, "-s", "from mutt", "friend@example.org"]
    done = toad.run(*words, data=b"written with mutt\n")
    assert (done.returncode, done.stderr) == (0, "")
    mail = hosts.stranger.await_mail("org", b"Subject: from mutt\n")
    assert b"\n\nwritten with mutt\n" in mail
    assert b"with ESMTPSA id" in mail
    toad.await_log(
        r"submissions/smtpd\[\d+\]: \w+: client=.*sasl_method=[-A-Z0-9]+, sasl_username=lcarr"
    )


def test_system_hosts_only_supervisors_are_root(hosts: ReselLan) -> None:
    for machine in hosts.machines:
        lines = machine.check("ps", "-eo", "user=,args=").splitlines()
        ours = [line.split()[0] for line in lines if "resel-mta" in line or "resel_" in line]
        expected = ["resel", "root", *(["vmail"] if machine is hosts.toad else [])]
        # There may be a mailbox process for each core.
        assert sorted(set(ours)) == expected, lines
        assert ours.count("root") == 1
        assert "Traceback" not in machine.log()


def test_system_hosts_end_with_the_program_that_made_them(tmp_path: Path) -> None:
    """Killed, it cannot clean up: the kernel does."""
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from lan import Host\n"
        "from pathlib import Path\n"
        "host = Host(Path(sys.argv[2]) / 'h', 'h.example.org'); host.start()\n"
        "host.spawn('sleep', '1000', output=sys.stderr); print(host.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    words = [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        holder = Path("/proc") / process.stdout.readline().strip()
        assert (holder / "ns/net").exists()
        process.kill()
    until = time.monotonic() + 60
    while holder.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not holder.exists()
