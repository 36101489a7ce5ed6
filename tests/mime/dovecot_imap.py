"""A real Dovecot's imap process on a Maildir, pre-authenticated, on its standard input.

Dovecot refuses to serve root, so as root it runs as nobody on a tree that is handed to nobody.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

IMAP = Path("/usr/lib/dovecot/imap")
_LITERAL = re.compile(rb"\{(\d+)\}\r\n$")

CONFIG = """\
mail_location = maildir:{root}/Maildir{options}
base_dir = {root}/run
state_dir = {root}/run
ssl = no
log_path = {root}/log
first_valid_uid = 1
first_valid_gid = 0
mail_uid = {user}
mail_gid = {group}
stats_writer_socket_path =
auth_socket_path = {root}/none
{more}
"""


@contextlib.contextmanager
def reachable_mailbox() -> Iterator[Path]:
    """A folder with an empty Maildir and a home. Not pytest's: the user nobody must reach it."""
    path = Path(tempfile.mkdtemp(prefix="resel-mailbox-"))
    os.chmod(path, 0o755)
    for part in ("cur", "new", "tmp"):
        (path / "Maildir" / part).mkdir(parents=True)
    (path / "home").mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class DovecotImap:
    """One session. Use as a context manager."""

    def __init__(self, root: Path, options: str = "", more: str = "") -> None:
        self.root = root
        self.user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        entry = pwd.getpwnam(self.user)
        (root / "run").mkdir(exist_ok=True)
        conf = root / "dovecot.conf"
        conf.write_text(
            CONFIG.format(
                root=root, options=options, user=entry.pw_uid, group=entry.pw_gid, more=more
            )
        )
        give(root, self.user)
        as_other = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self._process = subprocess.Popen(
            [str(IMAP), "-c", str(conf)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"USER": "tester", "HOME": str(root), "PATH": os.environ["PATH"]},
            cwd=root,
            **(as_other if os.geteuid() == 0 else {}),
        )
        self._tag = 0
        greeting = self._response()
        if not greeting.startswith(b"* PREAUTH"):
            log = (root / "log").read_text() if (root / "log").exists() else ""
            self.__exit__()
            raise RuntimeError(f"dovecot: {greeting!r} {log}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> DovecotImap:
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        for stream in (process.stdin, process.stdout, process.stderr):
            # One that was killed has not read all.
            with contextlib.suppress(BrokenPipeError):
                if stream:
                    stream.close()
        process.wait(10)

    def _response(self) -> bytes:
        assert self._process.stdout
        out = b""
        while True:
            line = self._process.stdout.readline()
            out += line
            match = _LITERAL.search(line)
            if not match or not line:
                return out
            out += self._process.stdout.read(int(match.group(1)))

    def command(self, text: str | bytes) -> list[bytes]:
        """Untagged responses, the tagged one last."""
        assert self._process.stdin
        self._tag += 1
        tag = b"t%d" % self._tag
        raw = text.encode() if isinstance(text, str) else text
        self._process.stdin.write(tag + b" " + raw + b"\r\n")
        self._process.stdin.flush()
        found = []
        while True:
            response = self._response()
            if not response:
                raise RuntimeError("dovecot closed the session")
            found.append(response)
            if response.startswith(tag + b" "):
                return found


def give(root: Path, user: str) -> None:
    """Hand a tree to `user` when we are root."""
    if os.geteuid() != 0:
        return
    for directory, _, files in os.walk(root):
        shutil.chown(directory, user)
        for name in files:
            # Locks come and go meanwhile.
            with contextlib.suppress(FileNotFoundError):
                shutil.chown(os.path.join(directory, name), user)
