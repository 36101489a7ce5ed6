"""Sessions kept open for the next message to the same next hop."""

from __future__ import annotations

import asyncio

from resel_relay.parameters import Parameters
from resel_relay.session import Session

# Idle sessions of all next hops together.
MAX_IDLE = 200


class Pool:
    """Idle sessions by next hop. The one used last is taken first, so that those not needed age.

    A session whose server closed it, or has said something unasked, is never given out.
    """

    def __init__(self, parameters: Parameters, max_idle: int = MAX_IDLE) -> None:
        self._parameters = parameters
        self._max_idle = max_idle
        self._idle: dict[str, list[Session]] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return self._count

    def take(self, nexthop: str) -> Session | None:
        """An open session, or None."""
        sessions = self._idle.get(nexthop)
        while sessions:
            session = sessions.pop()
            self._count -= 1
            if not sessions:
                del self._idle[nexthop]
            session.connection.idle = False
            if not session.connection.error:
                return session
        return None

    def put(self, nexthop: str, session: Session) -> None:
        """Keep a session, or close it if it is used up."""
        parameters, connection = self._parameters, session.connection
        now = asyncio.get_running_loop().time()
        limit = parameters.connection_reuse_count_limit
        if (
            self._closed
            or connection.error
            or connection.surplus
            or not parameters.connection_cache_on_demand
            or now - session.opened >= parameters.connection_reuse_time_limit
            or (limit and session.uses >= limit)
            or self._count >= self._max_idle
        ):
            session.close()
            return
        session.idle_since = now
        connection.idle = True
        self._idle.setdefault(nexthop, []).append(session)
        self._count += 1
        if self._timer is None:
            self._schedule()

    def _schedule(self) -> None:
        seconds = self._parameters.connection_cache_time_limit
        self._timer = asyncio.get_running_loop().call_later(seconds / 2, self._sweep)

    def _sweep(self) -> None:
        """Close what was idle for longer than smtp_connection_cache_time_limit."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        oldest = now - self._parameters.connection_cache_time_limit
        for nexthop, sessions in list(self._idle.items()):
            kept = [s for s in sessions if s.idle_since > oldest and not s.connection.error]
            for session in sessions:
                if session not in kept:
                    session.close()
            self._count -= len(sessions) - len(kept)
            if kept:
                self._idle[nexthop] = kept
            else:
                del self._idle[nexthop]
        if self._count:
            self._schedule()

    def close(self) -> None:
        """Close all idle sessions, and those that come back later."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for sessions in self._idle.values():
            for session in sessions:
                session.close()
        self._idle.clear()
        self._count = 0
