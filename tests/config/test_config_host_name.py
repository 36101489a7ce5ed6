"""The machine's own name."""

from __future__ import annotations

from pathlib import Path

import pytest

from resel_mta.config.host import full_name


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("127.0.0.1 localhost\n127.0.1.1 vm1.adm.resel.fr vm1\n", "vm1.adm.resel.fr"),
        ("127.0.1.1\tvm1 vm1.adm.resel.fr # vm1.example\n", "vm1.adm.resel.fr"),
        ("127.0.1.1 vm1\n10.0.2.11 vm1.adm.resel.fr vm1\n", "vm1.adm.resel.fr"),
        ("127.0.1.1 vm10.adm.resel.fr vm10\n#127.0.1.1 vm1.example vm1\n", "vm1"),
        ("", "vm1"),
    ],
)
def test_config_full_name_is_the_one_that_debian_writes(
    tmp_path: Path, text: str, full: str
) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    assert full_name("vm1", str(path)) == full


def test_config_full_name_without_a_file(tmp_path: Path) -> None:
    assert full_name("vm1", str(tmp_path / "none")) == "vm1"


def test_config_full_name_of_localhost_is_left(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost.localdomain localhost\n")
    assert full_name("localhost", str(path)) == "localhost"
