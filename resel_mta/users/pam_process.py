"""The process that asks PAM as root: ``python -m resel_mta.users.pam_process SERVICE``.

Started by the supervisor, for a service that main.cf names; it does nothing else. Descriptor 0 is
a socket (SOCK_SEQPACKET) to the network process. It gets {"number", "name", "password"} (base64)
and answers {"number", "ok": true|false} or {"number", "failed": why}, each asked in a thread. It
ends when the socket does.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

from resel_mta.users.pam import THREADS, PamFailure, check_password

MAX_PACKET = 8192


def serve(service: str, control: socket.socket) -> None:
    """Until the other side is gone."""
    # Its threads may hang in a module: the process does not wait for them.
    executor = ThreadPoolExecutor(THREADS, thread_name_prefix="pam")
    while True:
        try:
            packet = control.recv(MAX_PACKET)
        except OSError:
            return
        if not packet:
            return
        executor.submit(_answer, service, packet, control)


def _answer(service: str, packet: bytes, control: socket.socket) -> None:
    answer: dict[str, object]
    number = None
    try:
        request = json.loads(packet)
        number = int(request["number"])
        password = base64.b64decode(request["password"])
        answer = {"ok": check_password(service, str(request["name"]), password)}
    except PamFailure as failure:
        answer = {"failed": str(failure)}
    except (ValueError, KeyError, TypeError):
        answer = {"failed": "not a request"}
    with contextlib.suppress(OSError):
        control.send(json.dumps({"number": number, **answer}).encode())


def main() -> int:
    """Exit status 0, or 64 when it was not started by the mail system."""
    try:
        control = socket.socket(fileno=os.dup(0))
        if control.family != socket.AF_UNIX or len(sys.argv) != 2:
            raise OSError("descriptor 0 is another socket")
    except OSError:
        print("resel_mta.users.pam_process is started by resel-mta, not by hand", file=sys.stderr)
        return 64
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # What is sent to the whole group is the supervisor's to decide on.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    serve(sys.argv[1], control)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
