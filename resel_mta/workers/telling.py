"""How a configuration gets to a worker."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict

from resel_mta.config import Settings
from resel_mta.config.settings import Setting, Source


@contextlib.contextmanager
def settings_file(settings: Settings) -> Iterator[int]:
    """A descriptor of a file without a name that has them, however many they are."""
    told = {
        "role": settings.role,
        "path": settings.path,
        "config_directory": settings.config_directory,
        "explicit": {
            name: {"value": setting.value, "source": asdict(setting.source)}
            for name, setting in settings.explicit().items()
        },
    }
    descriptor = os.memfd_create("settings", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(json.dumps(told).encode())
        yield descriptor
    finally:
        os.close(descriptor)


def read_settings(descriptor: int) -> Settings:
    """What `settings_file` holds; worker 0 has checked it. `descriptor` is closed."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        told = json.load(file)
    explicit = {
        name: Setting(each["value"], Source(**each["source"]))
        for name, each in told["explicit"].items()
    }
    return Settings(
        told["role"], explicit, path=told["path"], config_directory=told["config_directory"]
    )
