"""When a process that has ended is started again."""

from __future__ import annotations

from resel_mta.spawning import LONGEST_PAUSE, SETTLED, Restarts


def test_daemon_restarts_get_rarer_until_one_lasts() -> None:
    restarts = Restarts()
    assert [restarts.pause(7.0, 71) for _ in range(4)] == [1.0, 2.0, 4.0, 8.0]
    assert [restarts.pause(0.1, -9) for _ in range(4)][-1] == LONGEST_PAUSE
    assert restarts.pause(SETTLED, -9) == 0.0
    assert restarts.pause(0.1, -9) == 1.0
    assert restarts.pause(LONGEST_PAUSE, 71) == 0.0
