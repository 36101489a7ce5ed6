"""The door to other schedulers that deliver from other parts of the queue: what they share.

Limits per next hop hold for all of them together. Where a limit can be divided, each has its
share; where it is lower than their number, or deliveries must keep a distance in time, they take
turns. What one finds out about a next hop that is down, or back, the others learn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from resel_mta.mail import Outcome


class Listener(Protocol):
    """Who is told; a dispatcher is one."""

    def told_down(self, site: str, until: float, outcome: Outcome) -> None:
        """Another one found a next hop down: nothing is tried before."""
        ...

    def told_up(self, site: str) -> None:
        """Another one found a next hop back that had been down."""
        ...

    def shares_changed(self) -> None:
        """There are more or fewer of them now."""
        ...


class Peers(Protocol):
    """One scheduler's view of the others."""

    def share(self, limit: int) -> int:
        """How many of `limit` deliveries at a time are its own, at least 1; 0 (no limit) stays 0."""
        ...

    def take_turns(self, limit: int, delay: int) -> bool:
        """Whether a next hop with this limit, and seconds between two deliveries, is used by turns."""
        ...

    def want_turn(self, site: str, limit: int, delay: int, granted: Callable[[], None]) -> None:
        """Ask for a turn. `granted` is called once, and then `end_turn` is owed."""
        ...

    def end_turn(self, site: str, *, used: bool) -> None:
        """The turn is over. used: whether something was delivered."""
        ...

    def tell_down(self, site: str, until: float, outcome: Outcome) -> None:
        """This one found a next hop down."""
        ...

    def tell_up(self, site: str) -> None:
        """This one found a next hop back."""
        ...

    def listen(self, listener: Listener) -> None:
        """From now on, tell `listener` what others find out."""
        ...

    def leave(self) -> None:
        """It delivers nothing more."""
        ...


class Alone:
    """There are no others."""

    def share(self, limit: int) -> int:
        return limit

    def take_turns(self, limit: int, delay: int) -> bool:
        return False

    def want_turn(self, site: str, limit: int, delay: int, granted: Callable[[], None]) -> None:
        granted()

    def end_turn(self, site: str, *, used: bool) -> None:
        pass

    def tell_down(self, site: str, until: float, outcome: Outcome) -> None:
        pass

    def tell_up(self, site: str) -> None:
        pass

    def listen(self, listener: Listener) -> None:
        pass

    def leave(self) -> None:
        pass
