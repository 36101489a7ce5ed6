"""tools/launcher: sendmail's script starts whatever it gets as standard input."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).resolve().parents[2] / "tools" / "launcher"
#: As pip writes it.
SCRIPT = """\
#!/usr/bin/false
# -*- coding: utf-8 -*-
import sys
from resel_mta.commands.sendmail import main
if __name__ == '__main__':
    sys.exit(main())
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    home = tmp_path / "a folder"
    home.mkdir()
    made = home / "resel-sendmail"
    made.write_text(SCRIPT)
    subprocess.run([LAUNCHER, made, sys.executable], check=True)
    (home / "mailq").symlink_to(made)
    (home / "main.cf").write_text(
        f"queue_directory = {home}/spool\ndata_directory = {home}/data\nmyhostname = vm.example\n"
    )
    return made


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_a_folder_is_no_message(script: Path, shell: str) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    start = [found, "sh", str(script)] if shell == "busybox" else [found, str(script)]
    done = run(*start, "-C", str(script.parent), "root", stdin=script.parent)
    assert done.returncode == 75
    assert done.stderr.count("\n") == 1
    assert "cannot read the message" in done.stderr


def test_its_names_and_words_reach_it(script: Path) -> None:
    done = run(str(script.parent / "mailq"), "--version", stdin=Path("/"))
    assert done.returncode == 0
    assert done.stdout.startswith("mailq ")
    script.write_text("#!/usr/bin/false\nimport sys\nprint(sys.argv)\n")
    subprocess.run([LAUNCHER, script, sys.executable, "-I"], check=True)
    words = [str(script), "", "a b", "$(false)", "*", "\\n'\"", "-x"]
    done = run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{words}\n", "")


def run(*words: str, stdin: Path | None = None) -> subprocess.CompletedProcess[str]:
    given = os.open(stdin or "/dev/null", os.O_RDONLY)
    try:
        return subprocess.run(
            words, stdin=given, capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        os.close(given)
