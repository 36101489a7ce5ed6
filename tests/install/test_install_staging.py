"""`make install DESTDIR=folder`, as for a package: nothing outside the folder, no root needed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def deploy(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(CHECKOUT / "tools" / "deploy"), *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built once: as `opt` of a folder it need not be built again."""
    folder = tmp_path_factory.mktemp("built")
    done = deploy("install", "server", DESTDIR=str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.timeout(150)
def test_install_into_a_folder(tmp_path: Path, built: Path) -> None:
    subprocess.run(["cp", "-a", f"{built}/.", tmp_path], check=True)
    home = tmp_path / "opt/resel-mta"
    for name in ("usr/sbin/sendmail", "usr/lib/sendmail", "usr/bin/mailq", "usr/bin/newaliases"):
        assert os.readlink(tmp_path / name) == "/opt/resel-mta/bin/resel-sendmail"
    assert "role = server" in (tmp_path / "etc/resel-mta/main.cf").read_text()
    assert "u vmail" in (tmp_path / "etc/sysusers.d/resel-mta.conf").read_text()
    assert (tmp_path / "etc/systemd/system/resel-mta.service.d/role.conf").exists()
    for script in home.glob("bin/resel-*"):
        begin = script.read_text()[:200]
        if script.name == "resel-sendmail":
            assert 'exec "/opt/resel-mta/bin/python" -I "$0" "$@"\n' in begin
        else:
            assert begin.startswith("#!/opt/resel-mta/bin/python -I\n")
    texts = [*home.glob("bin/*"), home / "pyvenv.cfg"]
    assert [t for t in texts if not t.is_symlink() and str(built) in t.read_text()] == []
    compiled = next(home.glob("lib/*/site-packages/resel_mta/__pycache__/mail.*.pyc"))
    assert b"/opt/resel-mta/lib" in compiled.read_bytes()
    assert str(built).encode() not in compiled.read_bytes()
    # A second time nothing is built, and what the administrator changed stays.
    (tmp_path / "etc/resel-mta/main.cf").write_text("role = server\n# mine\n")
    stamp = home.stat().st_mtime_ns
    assert deploy("install", "server", DESTDIR=str(tmp_path)).returncode == 0
    assert home.stat().st_mtime_ns == stamp
    assert (tmp_path / "etc/resel-mta/main.cf").read_text() == "role = server\n# mine\n"
    assert deploy("uninstall", DESTDIR=str(tmp_path)).returncode == 0
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()]
    assert sorted(left) == ["etc/aliases", "etc/resel-mta/main.cf"]


@pytest.mark.timeout(150)
def test_install_names_in_a_folder_are_moved_aside(tmp_path: Path, built: Path) -> None:
    subprocess.run(["cp", "-al", built / "opt", tmp_path], check=True)
    theirs = tmp_path / "usr/sbin/sendmail"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("#!/bin/sh\n")
    aside = theirs.with_name("sendmail.before-resel-mta")
    done = deploy("install", "relay", DESTDIR=str(tmp_path), SENDMAIL="no")
    assert done.returncode == 0, done.stderr
    assert theirs.read_text() == "#!/bin/sh\n"
    assert deploy("install", "relay", DESTDIR=str(tmp_path)).returncode == 0
    assert theirs.is_symlink()
    assert aside.read_text() == "#!/bin/sh\n"
    assert deploy("uninstall", DESTDIR=str(tmp_path)).returncode == 0
    assert theirs.read_text() == "#!/bin/sh\n"
    assert not aside.exists()


def test_install_overwrites_nothing(tmp_path: Path) -> None:
    theirs = tmp_path / "usr/bin/mailq"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("now\n")
    theirs.with_name("mailq.before-resel-mta").write_text("earlier\n")
    done = deploy("install", "relay", DESTDIR=str(tmp_path))
    assert done.returncode == 73
    assert done.stderr == "/usr/bin/mailq.before-resel-mta is in the way; nothing was installed\n"
    assert theirs.read_text() == "now\n"
    assert {each.name for each in tmp_path.iterdir()} == {"usr"}
    assert len(list((tmp_path / "usr").rglob("*"))) == 3


@pytest.mark.parametrize("words", [("install",), ("install", "mailhub"), (), ("remove",)])
def test_install_says_what_is_missing(words: tuple[str, ...], tmp_path: Path) -> None:
    done = deploy(*words, DESTDIR=str(tmp_path))
    assert done.returncode == 64
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
