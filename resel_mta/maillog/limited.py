"""Warnings about what users of this machine do: nobody fills the log with them."""

from __future__ import annotations

import asyncio
from collections import Counter

from resel_mta.maillog import MailLog

#: Lines about one user, and about all, in a minute; what is more is counted.
LINES = 5
MOST_LINES = 50
MINUTE = 60.0


class LimitedLog:
    """Warnings by uid: the first few of a user, and then one a minute that says how many more."""

    def __init__(self, log: MailLog, service: str, minute: float = MINUTE) -> None:
        self._log = log
        self._service = service
        self._minute = minute
        self._lines = 0
        self._told: Counter[int] = Counter()
        self._left_out: Counter[int] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def warning(self, uid: int, text: str) -> None:
        """text: without the uid."""
        if self._told[uid] < LINES and self._lines < MOST_LINES:
            self._lines += 1
            self._told[uid] += 1
            self._log.warning(self._service, f"uid={uid}: {text}"[:1000])
        else:
            self._left_out[uid] += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._minute, self._minute_over)

    def close(self) -> None:
        """Nothing more is counted; what was is said."""
        if self._timer is not None:
            self._timer.cancel()
            self._minute_over()
            if self._timer is not None:
                self._timer.cancel()

    def _minute_over(self) -> None:
        left_out, self._left_out = self._left_out, Counter()
        users = left_out.most_common(MOST_LINES)
        for uid, count in users:
            self._log.warning(self._service, f"uid={uid}: {count} more such warnings, not shown")
        if len(users) < len(left_out):
            rest = left_out.total() - sum(count for _, count in users)
            others = len(left_out) - len(users)
            text = f"{others} other users: {rest} more such warnings, not shown"
            self._log.warning(self._service, text)
        # Who goes on is only counted; who is quiet for a minute begins anew.
        self._told = Counter({uid: LINES for uid, _ in users})
        self._lines = 0
        self._timer = None
        if left_out:
            self._timer = asyncio.get_running_loop().call_later(self._minute, self._minute_over)
