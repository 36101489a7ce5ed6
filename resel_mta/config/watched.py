"""Tables marked ``watch:`` in the configuration: made live as soon as their file has changed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress

from resel_mta.config.live import LiveFile, live_files
from resel_mta.config.settings import Settings
from resel_mta.disk import Disk

#: Seconds between two looks, and for which a file must have been left alone: its writer may have
#: done half of it.
_LOOK_EVERY = 0.2
_SETTLED = 0.2

Stamp = tuple[int, int, int]


class WatchedMaps:
    """Looks at them for as long as the daemon runs. note, warn: take lines for the log."""

    def __init__(
        self, settings: Settings, note: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        self._note = note
        self._warn = warn
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """From now on, those that these settings mark. They were just made live."""
        self._files = [file for _, file in live_files(settings) if file.spec.watched]
        self._seen = {file.live: _stamp(file) for file in self._files}

    async def keep_looking(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if self._files:
                await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Make live what has changed; a broken file keeps its last good copy. Blocks."""
        for file in self._files:
            stamp = _stamp(file)
            if stamp is None or stamp == self._seen[file.live]:
                continue
            if abs(time.time() - stamp[0] / 1e9) < _SETTLED:
                continue
            self._seen[file.live] = stamp
            self._publish(file)

    def _publish(self, file: LiveFile) -> None:
        try:
            problems = file.publish(Disk())
        except OSError as error:
            self._warn(f"{file.source} cannot be made live: {error.strerror}: {error.filename}")
            return
        for problem in problems:
            self._warn(str(problem))
        if any(problem.is_error for problem in problems):
            self._warn(f"{file.source}: the last good copy stays in use")
        else:
            self._note(f"{file.source} has changed and is live")


def _stamp(file: LiveFile) -> Stamp | None:
    """None while there is no file: what is live stays so."""
    with suppress(OSError):
        status = os.stat(file.source)
        return status.st_mtime_ns, status.st_size, status.st_ino
    return None
