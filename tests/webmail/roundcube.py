"""Debian's Roundcube under PHP's own web server, with a configuration and a database of its own."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType

from demo.machines import free_port

SYSTEM = Path("/etc/roundcube")
PUBLIC = Path("/var/lib/roundcube/public_html")
# A program of the package, to see whether it is installed.
UPDATE = "/usr/share/roundcube/bin/update.sh"

CONFIG = """<?php
$config['db_dsnw'] = 'sqlite:///%(directory)s/roundcube.db?mode=0600';
$config['imap_host'] = 'tls://%(imap)s';
$config['smtp_host'] = 'tls://%(submission)s';
$config['smtp_user'] = '%%u';
$config['smtp_pass'] = '%%p';
$config['mail_domain'] = 'resel.fr';
// The certificate is of the test's own making.
$own = ['ssl' => ['verify_peer' => false, 'verify_peer_name' => false]];
$config['imap_conn_options'] = $own;
$config['smtp_conn_options'] = $own;
$config['des_key'] = '%(key)s';
$config['log_dir'] = '%(directory)s/';
$config['temp_dir'] = '%(directory)s/temp/';
$config['imap_debug'] = true;
$config['create_default_folders'] = true;
$config['enable_spellcheck'] = false;
$config['plugins'] = [];
$config['language'] = 'en_US';
$config['skin'] = 'elastic';
$config['layout'] = 'list';
"""


class Roundcube:
    """A context manager. imap, submission: "host:port" of the servers, both with STARTTLS."""

    def __init__(self, directory: Path, imap: str, submission: str) -> None:
        self._directory = directory
        self._port = free_port(["127.0.0.1"])
        (directory / "temp").mkdir()
        values = {
            "directory": directory,
            "imap": imap,
            "submission": submission,
            "key": secrets.token_hex(12),
        }
        for name in ("defaults.inc.php", "mimetypes.php"):
            shutil.copyfile(SYSTEM / name, directory / name)
        (directory / "config.inc.php").write_text(CONFIG % values)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    @property
    def answers(self) -> set[str]:
        """The words with which the IMAP server answered commands: OK, NO, BAD."""
        log = (self._directory / "imap.log").read_text("utf-8", "replace")
        return set(re.findall(r"S: A\d+ (\w+)", log))

    @property
    def errors(self) -> str:
        """What it complained about."""
        path = self._directory / "errors.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def __enter__(self) -> Roundcube:
        with (self._directory / "php.log").open("wb") as log:
            self._server = subprocess.Popen(
                ["php", "-S", f"127.0.0.1:{self._port}", "-t", str(PUBLIC)],
                stdout=log,
                stderr=log,
                env={
                    "ROUNDCUBE_CONFIG_DIR": str(self._directory),
                    "PATH": "/usr/bin:/bin",
                    "PHP_CLI_SERVER_WORKERS": "4",
                },
            )
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(self.url, timeout=10).close()
                return self
            except OSError:
                if time.monotonic() > until or self._server.poll() is not None:
                    self._server.kill()
                    raise
                time.sleep(0.1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.terminate()
        self._server.wait(10)
