"""main.cf as a whole: layers, types, roles, errors, and what Postfix itself says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from resel_mta.config import ConfigError, Settings, load
from resel_mta.config.expand import expand
from resel_mta.config.load import read
from resel_mta.config.parameters import Support, find, table

POSTCONF = "/usr/sbin/postconf"
needs_postconf = pytest.mark.needs(POSTCONF)

SATELLITE = """\
# See /usr/share/postfix/main.cf.dist for a commented, more complete version
myorigin = /etc/mailname

smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
biff = no
append_dot_mydomain = no
#delay_warning_time = 4h
readme_directory = no
compatibility_level = 3.6

# TLS parameters
smtpd_tls_cert_file=/etc/ssl/certs/ssl-cert-snakeoil.pem
smtpd_tls_key_file=/etc/ssl/private/ssl-cert-snakeoil.key
smtpd_tls_security_level=may
smtp_tls_CApath=/etc/ssl/certs
smtp_tls_security_level=may
smtp_tls_session_cache_database = btree:${data_directory}/smtp_scache

smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination
myhostname = vm.adm.example.org
alias_maps = hash:/etc/aliases
alias_database = hash:/etc/aliases
mydestination = $myhostname, vm, localhost.localdomain, , localhost
relayhost = [pegase.adm.example.org]
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128
mailbox_size_limit = 0
recipient_delimiter = +
inet_interfaces = loopback-only
default_transport = smtp
relay_transport = smtp
inet_protocols = all
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "main.cf"
    path.write_text(text)
    return str(path)


def errors_of(path: str, **options: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, **options)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems if problem.is_error]


@needs_postconf
def test_every_parameter_of_postfix_is_known() -> None:
    output = subprocess.run([POSTCONF, "-d"], capture_output=True, text=True, check=True)
    names = [line.partition(" =")[0] for line in output.stdout.splitlines()]
    assert len(names) > 1000
    assert [name for name in names if find(name) is None] == []


def test_what_is_implemented_says_what_it_does() -> None:
    silent = [p.name for p in table().values() if p.support is Support.IMPLEMENTED and not p.prose]
    assert silent == []


def test_debian_satellite_runs_unchanged(tmp_path: Path) -> None:
    settings = load(write(tmp_path, SATELLITE), role="smarthost")
    assert [str(w) for w in settings.warnings if "unknown" in w.text] == []
    assert settings.text("relayhost") == "[pegase.adm.example.org]"
    assert settings.items("mydestination") == (
        "vm.adm.example.org",
        "vm",
        "localhost.localdomain",
        "localhost",
    )
    assert settings.text("smtpd_banner") == "vm.adm.example.org ESMTP resel-mta (Debian/GNU)"
    assert {each.host for each in settings.listeners("smtpd")} <= {"127.0.0.1", "::1"}
    assert settings.listeners("imap") == ()


def test_layers_and_sources(tmp_path: Path) -> None:
    path = write(tmp_path, "queue_run_delay = 5\nqueue_run_delay = 7m\n\nrole = relay\n")
    settings = load(path, ["soft_bounce=yes"])
    assert settings.seconds("queue_run_delay") == 420
    assert str(settings.source("queue_run_delay")) == f"{path}:2"
    assert str(settings.source("soft_bounce")) == "command line"
    assert settings.flag("soft_bounce") is True
    assert str(settings.source("inet_interfaces")) == "role relay"
    assert str(settings.source("maximal_backoff_time")) == "default"
    assert settings.role == "relay"
    assert any("overrides line 1" in str(each) for each in settings.warnings)


def test_role_on_the_command_line_wins_and_says_so(tmp_path: Path) -> None:
    settings = load(write(tmp_path, "role = relay\n"), role="server")
    assert settings.role == settings.text("role") == "server"
    warnings = [str(each) for each in settings.warnings]
    assert any("relay" in each and "server" in each for each in warnings)


def test_all_problems_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "queue_run_delay = soon\n"
        "soft_bounce = maybe\n"
        "content_filter = scan:[127.0.0.1]:10024\n"
        "smtpd_recipient_restrictions = reject_rbl_client zen.example, permit_mynetworks, reject\n"
        "smtp_tls_security_level = dane\n"
        "transport_maps = mysql:/etc/x\n"
        "mynetworks = 10.0.0.1/8\n"
        "smtpd_listen = 1.2.3.4\n",
    )
    found = errors_of(path)
    for line, word in enumerate(
        (
            "queue_run_delay",
            "yes or no",
            "content_filter",
            "reject_rbl_client",
            "none, may, encrypt",
            "mysql",
            "10.0.0.0/8",
            "host:port",
        ),
        1,
    ):
        assert [each for each in found if each.startswith(f"{path}:{line}:") and word in each], word
    assert len(found) == 8


@pytest.mark.parametrize(
    "line",
    [
        "smtpd_proxy_filter = localhost:10025",
        "smtpd_milters = inet:localhost:8891",
        "header_checks = regexp:/etc/x",
        "smtp_tls_policy_maps = hash:/etc/x",
        "smtpd_sender_restrictions = reject_unknown_sender_domain",
        "relay_domains = nis:x",
        "smtpd_tls_security_level = fingerprint",
    ],
)
def test_fails_closed(tmp_path: Path, line: str) -> None:
    assert any(line.partition(" =")[0] in each for each in errors_of(write(tmp_path, line + "\n")))


@pytest.mark.parametrize(
    "line",
    [
        "dns_nameservers = nonsense",
        "dns_nameservers = 192.0.2.1:port",
        "relayhost = [host]:notaport",
        "relayhost = [host",
        "relayhost = []",
        "smtp_fallback_relay = a, b:0",
        "mynetworks = 300.1.1.1",
        "default_transport = carrier-pigeon",
        "local_transport = :host",
        "relay_transport = smtp:[host",
        "smtp_bind_address = 192.0.2",
        "smtp_bind_address = ::1",
        "smtp_tcp_port = smpt",
        "lmtp_tcp_port = 65536",
    ],
)
def test_hosts_ports_and_transports_that_cannot_be(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path, f"{line}\n"))
    (problem,) = [each for each in error.value.problems if each.is_error]
    assert problem.where.endswith("main.cf:1")
    assert problem.parameter == line.partition(" ")[0]


@pytest.mark.parametrize(
    "line",
    [
        "dns_nameservers = 192.0.2.1 [2001:db8::1]:5353, 192.0.2.2:53 2001:db8::2",
        "relayhost = [pegase.adm.resel.fr]",
        "relayhost = resel.fr:submission, [ipv6:2001:db8::1]:25",
        "relayhost =",
        "default_transport = smtp:[mx.example.org]:26",
        "local_transport = error:5.1.1 nobody lives here",
        "virtual_transport = lmtp:unix:private/dovecot-lmtp",
        "smtp_bind_address6 = 2001:db8::1",
        "mynetworks = 192.0.2.0/24 host.example.org .example.net",
    ],
)
def test_hosts_ports_and_transports_that_can_be(tmp_path: Path, line: str) -> None:
    settings = load(write(tmp_path, f"{line}\n"))
    name, _, value = line.partition(" =")
    assert settings.setting(name).value == value.strip()


def test_a_refused_parameter_may_say_its_default(tmp_path: Path) -> None:
    load(write(tmp_path, "content_filter =\nsmtpd_tls_ask_ccert = no\nbiff = yes\n"))


def test_unknown_name_is_a_warning_with_a_hint(tmp_path: Path) -> None:
    path = write(tmp_path, "\nrelayhots = x\n")
    (warning,) = load(path).warnings
    assert (
        str(warning)
        == f'{path}:2: warning: relayhots: unknown parameter; did you mean "relayhost"?'
    )


def test_names_of_ones_own(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "site = example.org\nmyhostname = mx.$site\n"
        "smtpd_restriction_classes = inside\ninside = permit_mynetworks, reject\n"
        "smtpd_recipient_restrictions = inside\n"
        "backup_destination_concurrency_limit = 3\n",
    )
    settings = load(path)
    assert settings.warnings == ()
    assert settings.text("mydomain") == "example.org"
    assert settings.items("smtpd_recipient_restrictions") == ("permit_mynetworks", "reject")
    assert settings.number("backup_destination_concurrency_limit") == 3
    assert settings.number("smtp_destination_concurrency_limit") == 20


def test_open_relay_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "smtpd_relay_restrictions = permit_mynetworks, permit\n")
    assert any("relay for everybody" in each for each in errors_of(path))


def test_overrides_of_one_listener(tmp_path: Path) -> None:
    path = write(tmp_path, "role = server\nsubmission/smtpd_timeout = 10s\n")
    settings = load(path, ["submission/smtpd_recipient_limit=5"])
    view = settings.service("submission")
    assert (view.seconds("smtpd_timeout"), settings.seconds("smtpd_timeout")) == (10, 300)
    assert view.number("smtpd_recipient_limit") == 5
    assert view.items("smtpd_relay_restrictions") == ("permit_sasl_authenticated", "reject")
    assert any("nosuch" in each for each in errors_of(path, overrides=["nosuch/smtpd_timeout=1"]))
    bad = errors_of(path, overrides=["submission/smtpd_timeout=x"])
    assert len(bad) == 1
    assert "submission/smtpd_timeout" in bad[0]


def test_a_self_reference_is_an_error(tmp_path: Path) -> None:
    assert any("itself" in each for each in errors_of(write(tmp_path, "relayhost = $relayhost\n")))


def test_read_keeps_a_bad_configuration_visible(tmp_path: Path) -> None:
    settings, problems = read(write(tmp_path, "soft_bounce = maybe\nrole = boss\n"))
    assert settings.text("soft_bounce") == "maybe"
    assert len([each for each in problems if each.is_error]) == 2


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load("/nonexistent/main.cf")


def test_getters_are_strict() -> None:
    settings = Settings.build(role="relay")
    with pytest.raises(KeyError):
        settings.text("no_such_parameter")
    with pytest.raises(TypeError):
        settings.flag("queue_run_delay")


def test_listeners() -> None:
    settings = Settings.build(
        smtpd_listen="127.0.0.1:2525 [::1]:2525 unix:/run/x",
        inet_interfaces="127.0.0.1",
        imap_listen=":1143",
        proxy_interfaces="192.0.2.9",
    )
    assert [(e.host, e.port, e.path) for e in settings.listeners("smtpd")] == [
        ("127.0.0.1", 2525, ""),
        ("::1", 2525, ""),
        ("", 0, "/run/x"),
    ]
    assert [e.host for e in settings.listeners("imap")] == ["127.0.0.1"]
    assert settings.is_own_address("127.0.0.1", 2525)
    assert settings.is_own_address("192.0.2.9", 2525)
    assert not settings.is_own_address("127.0.0.1", 2526)
    assert not settings.is_own_address("192.0.2.1", 2525)
    assert any("outside inet_interfaces" in str(each) for each in settings.warnings)


def test_tls_protocols_that_cannot_be_had_are_refused() -> None:
    Settings.build(smtp_tls_protocols="!SSLv2, !SSLv3, !TLSv1")
    with pytest.raises(ConfigError, match="not supported"):
        Settings.build(smtp_tls_protocols=">=TLSv1.3")


EXPRESSIONS = {
    "$a ${a} $(a)": "1 1 1",
    "${a?yes}${b?no}": "yes",
    "${a:no}${b:yes}": "yes",
    "${a?{x}:{y}} ${b?{x}:{y}}": "x y",
    "${a ? {x} : {y}}": "x",
    "${{$a} == {1} ? {x} : {y}}": "x",
    "${{$a} < {10} ? {x}:{y}}": "x",
    "${{3.10} <level {3.6} ? {x} : {y}}": "y",
    "${{a} != {b}}${{a} == {b}}": "true",
    "${a?$b}z${b:${a}}": "z1",
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expansion(text: str) -> None:
    assert expand(text, {"a": "1", "b": ""}.get) == EXPRESSIONS[text]
    assert expand("$$a", {}.get) == "$a"


@needs_postconf
def test_postfix_expands_the_same(tmp_path: Path) -> None:
    lines = [f"x{number} = {text}" for number, text in enumerate(EXPRESSIONS)]
    used = "mydestination = " + " ".join(f"$x{number}" for number in range(len(lines)))
    (tmp_path / "main.cf").write_text("\n".join(["a = 1", "b =", *lines, used, ""]))
    shutil.copy("/etc/postfix/master.cf", tmp_path)
    command = [POSTCONF, "-c", str(tmp_path), "-x", "-h", "mydestination"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == " ".join(EXPRESSIONS.values()).split()


@needs_postconf
@pytest.mark.parametrize("style", ["host", "subnet"])
def test_mynetworks_is_computed_as_by_postfix(tmp_path: Path, style: str) -> None:
    text = f"mynetworks_style = {style}\nmyhostname = a.example\n"
    (tmp_path / "main.cf").write_text(text)
    shutil.copy("/etc/postfix/master.cf", tmp_path)
    command = [POSTCONF, "-c", str(tmp_path), "-h", "mynetworks"]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ours = load(str(tmp_path), role="server").items("mynetworks")
    assert sorted(ours) == sorted(theirs)


def test_mailname(tmp_path: Path) -> None:
    (tmp_path / "mailname").write_text("mail.example\n")
    settings = Settings.build(myorigin=f"{tmp_path}/mailname", myhostname="h.example")
    assert settings.text("myorigin") == "mail.example"


def test_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESEL_CONFIG", write(tmp_path, "myhostname = env.example\n"))
    assert load(None).text("myhostname") == "env.example"
    assert os.path.isabs(load(None).text("config_directory"))
