"""Who wants to know of folders that come, go, change their names or their subscription."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from resel_lda.mailbox import FolderEvent


class TreeEvents:
    """Called back once for each folder after the change is on disk, in the task that made it."""

    def __init__(self) -> None:
        self._tree_callbacks: list[Callable[[FolderEvent], None]] = []

    def watch_tree(self, callback: Callable[[FolderEvent], None]) -> Callable[[], None]:
        """Returns what ends it."""
        self._tree_callbacks.append(callback)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._tree_callbacks.remove(callback)

        return stop

    def tree_changed(
        self, kind: str, name: str, old_name: str = "", entries: Iterable[str] = ()
    ) -> None:
        for callback in list(self._tree_callbacks):
            callback(FolderEvent(kind, name, old_name, tuple(entries)))

    def tree_renamed(self, name: str, new_name: str, names: Iterable[str]) -> None:
        """names: `name` and those below it."""
        for one in names:
            kind = "renamed" if one == name else "moved"
            self.tree_changed(kind, new_name + one[len(name) :], one)
