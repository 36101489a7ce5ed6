from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from queue_house import House, MakeHouse, make_houses


@pytest.fixture
async def make_house() -> AsyncIterator[MakeHouse]:
    async for make in make_houses():
        yield make


@pytest.fixture
async def house(make_house: MakeHouse) -> House:
    made = make_house()
    await made.scheduler.start()
    return made
