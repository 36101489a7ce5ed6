"""resel-mta with a clock beside it: which room of the code its CPU time goes to.

python benchmarks/profiled.py RESULT.json WORDS OF RESEL-MTA...

Every 4 ms of CPU time all threads are looked at. What CPU time one has used since the last look
counts for the room that it is in now. The figures are written at the end, as seconds by room.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

INTERVAL = 0.004
"""Seconds of CPU; the kernel counts in such steps."""
LOOP = "event loop, sockets"
ROOMS = (
    ("parse: SMTP session", ("resel_mta/smtpd/", "resel_mta/wire/", "resel_mta/receiver.py")),
    ("parse: SMTP session", ("resel_mta/trace.py", "/aiosmtpd/")),
    ("parse: header, rewriting, routing", ("resel_mta/intake.py", "resel_mta/routing/")),
    ("parse: header, rewriting, routing", ("resel_mta/content.py", "resel_mta/users/")),
    ("store: statements and syncs", ("resel_mta/queue/writer.py", "resel_mta/queue/rows.py")),
    ("store: statements and syncs", ("resel_mta/queue/progress.py", "resel_mta/queue/ledger.py")),
    ("store: statements and syncs", ("resel_mta/queue/sqlite.py", "resel_mta/queue/sketch.py")),
    ("schedule: queue manager", ("resel_mta/queue/",)),
    ("deliver: SMTP client", ("resel_relay/",)),
    ("log", ("resel_mta/maillog/",)),
)


def room_of(frame: FrameType | None) -> str:
    """The innermost frame that is of a known room decides."""
    while frame is not None:
        name = frame.f_code.co_filename
        for room, parts in ROOMS:
            if any(part in name for part in parts):
                return room
        frame = frame.f_back
    return LOOP


class Profile:
    """Seconds of CPU by room, while the block runs. In the main thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._used: dict[int, float] = {}

    def _look(self, signum: int, frame: FrameType | None) -> None:
        """A signal and no thread: that would be let in only where the others wait."""
        frames = sys._current_frames()
        main = threading.main_thread().ident
        for thread in threading.enumerate():
            ident = thread.ident
            if ident is not None and ident in frames:
                self._add(ident, frame if ident == main else frames[ident])

    def _add(self, ident: int, frame: FrameType | None) -> None:
        try:
            now = time.clock_gettime(time.pthread_getcpuclockid(ident))
        except OSError:
            return  # it ended just now
        used = now - self._used.get(ident, now)
        self._used[ident] = now
        if used > 0:
            room = room_of(frame)
            self.seconds[room] = self.seconds.get(room, 0.0) + used

    def __enter__(self) -> Profile:
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> int:
    """Run resel-mta's own main; its exit code."""
    target = Path(sys.argv[1])
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from resel_mta.commands.mta import main as run

    with Profile() as profile:
        code = run(sys.argv[2:])
    target.write_text(json.dumps(profile.seconds))
    return code


if __name__ == "__main__":
    sys.exit(main())
