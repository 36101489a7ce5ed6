"""A message is given back only when all that became of it is recorded."""

from __future__ import annotations

import pytest
from queue_fakes import OK, make_message, until
from queue_house import BUSY, House

from resel_mta.mail import Delivered, Message, Notify, Outcome

GOOD, OTHER = "a@x.net", "b@y.net"


async def begun_to_tell(house: House, other: Outcome) -> Message:
    """A message of which one recipient has it, and the other's outcome is there too, while the
    notification of the first is still being made."""
    house.smtp.answer = lambda m, r, route: other if r.address == OTHER else Delivered(OK)
    house.intake.gate.clear()
    message = make_message(house.store, GOOD, OTHER)
    message.recipients[0].notify = Notify.SUCCESS
    house.smtp.gate.clear()
    await house.store.enter(message)
    await until(lambda: house.smtp.running == 2)
    house.smtp.gate.set()
    await until(lambda: house.intake.preparing == 1 and len(house.lines("status=")) == 2)
    return message


def times_delivered(house: House) -> int:
    return [to for _, to in house.smtp.deliveries].count([GOOD])


async def test_what_is_delivered_is_not_due_while_its_notice_is_made(house: House) -> None:
    message = await begun_to_tell(house, BUSY)
    house.scheduler.arrived()
    await house.enter("c@z.net")
    await until(lambda: ["c@z.net"] in [to for _, to in house.smtp.deliveries])
    entry = await house.store.get(message.queue_id)
    assert entry is not None
    assert entry.queue == "active"
    house.intake.gate.set()
    await house.idle()
    assert times_delivered(house) == 1
    entry = await house.store.get(message.queue_id)
    assert entry is not None
    assert [recipient.address for recipient in entry.recipients] == [OTHER]
    assert ["sender@example.org"] in [to for _, to in house.smtp.deliveries]


async def test_a_message_stays_until_its_last_notice_is_there(house: House) -> None:
    message = await begun_to_tell(house, Delivered(OK))
    await house.enter("c@z.net")
    await until(lambda: len(house.lines("removed")) == 1)
    assert await house.names() == [message.queue_id]
    house.intake.gate.set()
    await house.idle()
    assert await house.names() == []
    assert ["sender@example.org"] in [to for _, to in house.smtp.deliveries]


@pytest.mark.parametrize("other", [BUSY, Delivered(OK)])
async def test_a_stop_forgets_no_delivery(house: House, other: Outcome) -> None:
    message = await begun_to_tell(house, other)
    await house.scheduler.stop(0.05)
    entry = await house.store.get(message.queue_id)
    left = [] if entry is None else [recipient.address for recipient in entry.recipients]
    assert left == ([OTHER] if other is BUSY else [])
