"""The configurations that administrators copy: they load, and mean what their comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from resel_mta.config import Settings, load

CONF = Path(__file__).resolve().parents[2] / "conf"


def settings(role: str, tmp_path: Path) -> Settings:
    """With the files that only the real machine has, made here."""
    for name in ("crt", "key", "users"):
        (tmp_path / name).touch()
    overrides = [f"alias_maps=hash:{CONF}/aliases{'.server' if role == 'server' else ''}"]
    if role == "server":
        overrides += [
            f"smtpd_tls_cert_file={tmp_path}/crt",
            f"smtpd_tls_key_file={tmp_path}/key",
            f"passdb=passwd-file:{tmp_path}/users",
            f"userdb=passwd-file:{tmp_path}/users",
            "mail_uid=65534",
            "mail_gid=65534",
        ]
    return load(str(CONF / f"{role}.cf"), overrides)


@pytest.mark.parametrize("role", ["smarthost", "relay", "server"])
def test_project_conf_loads_without_a_warning(role: str, tmp_path: Path) -> None:
    loaded = settings(role, tmp_path)
    assert loaded.role == role
    assert list(loaded.warnings) == []


def test_project_conf_only_the_server_ends_mail_for_the_domain(tmp_path: Path) -> None:
    ends = {
        role: "resel.fr" in settings(role, tmp_path).items("mydestination")
        for role in ("smarthost", "relay", "server")
    }
    assert ends == {"smarthost": False, "relay": False, "server": True}


def test_project_conf_next_hops(tmp_path: Path) -> None:
    assert settings("smarthost", tmp_path).text("relayhost") == "[pegase.adm.resel.fr]"
    assert settings("relay", tmp_path).text("relayhost") == "resel.fr"
    assert settings("server", tmp_path).text("relayhost") == ""


def test_project_conf_a_vm_listens_on_loopback_only(tmp_path: Path) -> None:
    hosts = {listener.host for listener in settings("smarthost", tmp_path).listeners("smtpd")}
    assert hosts <= {"127.0.0.1", "::1"}
    assert "127.0.0.1" in hosts


def test_project_conf_members_must_log_in_to_send(tmp_path: Path) -> None:
    submission = settings("server", tmp_path).service("submission")
    assert submission.items("smtpd_relay_restrictions") == ("permit_sasl_authenticated", "reject")
    assert submission.text("smtpd_tls_security_level") == "encrypt"
