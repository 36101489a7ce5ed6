"""`tools/again`: what CI forgives, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

AGAIN = Path(__file__).parents[2] / "tools" / "again"
# What each test does, run by run, is in a file of its name: F fails.
PROJECT = """
from pathlib import Path

def act(name):
    path = Path(__file__).with_name(name)
    turns = path.read_text() if path.exists() else ""
    path.write_text(turns[1:])
    assert turns[:1] != "F"

def test_good(): pass
def test_a(): act("a")
def test_b(): act("b")
def test_c(): act("c")
def test_d(): act("d")
"""


def run(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (directory / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, str(AGAIN), "-m", "pytest", "-q", *words],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def project(directory: Path, **turns: str) -> None:
    (directory / "test_it.py").write_text(PROJECT)
    for name, text in turns.items():
        (directory / name).write_text(text)


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_again_passes_what_fails_once_and_names_it(tmp_path: Path, workers: list[str]) -> None:
    project(tmp_path, b="F")
    found = run(tmp_path, *workers)
    assert found.returncode == 0, found.stdout
    told = found.stdout.rpartition("NOT STABLE, TO BE MENDED")[2]
    assert "test_it.py::test_b" in told
    assert "test_a" not in told
    assert found.stdout.count("\n1 passed") == 3


def test_again_fails_what_fails_in_one_of_three_runs(tmp_path: Path) -> None:
    project(tmp_path, a="F.F")
    found = run(tmp_path)
    assert found.returncode == 1
    assert "failed again, alone, in run 2 of 3\ntest_it.py::test_a" in found.stdout
    assert "MENDED" not in found.stdout


def test_again_fails_what_always_fails(tmp_path: Path) -> None:
    project(tmp_path, a="F", b="FFFF")
    found = run(tmp_path)
    assert found.returncode == 1
    assert "failed again, alone, in run 1 of 3\ntest_it.py::test_b" in found.stdout


def test_again_runs_no_more_than_three(tmp_path: Path) -> None:
    project(tmp_path, a="F", b="F", c="F", d="F")
    found = run(tmp_path)
    assert found.returncode == 1
    assert "alone" not in found.stdout


def test_again_forgives_no_failure_of_an_earlier_run(tmp_path: Path) -> None:
    """What is counted is this run's."""
    project(tmp_path, a="F")
    cache = tmp_path / ".pytest_cache/v/cache"
    cache.mkdir(parents=True)
    (cache / "lastfailed").write_text('{"test_it.py::test_gone": true, "test_it.py": true}')
    assert run(tmp_path).returncode == 0


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_again_forgives_no_error_of_collection(tmp_path: Path, workers: list[str]) -> None:
    project(tmp_path, a="F")
    (tmp_path / "test_broken.py").write_text("import no_such_module\n")
    found = run(tmp_path, *workers)
    assert found.returncode != 0
    assert "alone" not in found.stdout


@pytest.mark.parametrize("words", [["--no-such-option"], ["-k", "nothing"]])
def test_again_gives_pytests_status(tmp_path: Path, words: list[str]) -> None:
    project(tmp_path)
    assert run(tmp_path, *words).returncode in (4, 5)
