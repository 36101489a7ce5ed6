"""Expansion of recipients: virtual_alias_maps, then, for addresses of this machine, aliases(5).

Every address that was replaced leaves a mark in `Recipient.via`: an address for a virtual alias,
a bare name for a local one. An alias whose mark is there is not followed again, so ``root: root,
bob`` reaches root's own mailbox, and a chain that bites its tail ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from resel_mta.config import Settings
from resel_mta.config.aliases import TargetKind
from resel_mta.local_target import LocalTarget, answer_mark
from resel_mta.mail import (
    AddressClass,
    Notify,
    PermFail,
    Recipient,
    Reply,
    TempFail,
)
from resel_mta.routing.address import add_extension, address_key, domain_key, local_name
from resel_mta.routing.table import RoutingTable
from resel_mta.routing.targets import (
    YIELD_AFTER,
    ReadInclude,
    follow_includes,
    read_as_myself,
    split_addresses,
)
from resel_mta.wire import xtext
from resel_mta.wire.path import split_address

#: Local aliases of aliases that are followed (Postfix's local(8) has the same number).
_MAX_ALIAS_DEPTH = 100


@dataclass(frozen=True, slots=True)
class _Item:
    """An address on its way.

    via: as in `Recipient`; parent: the mark of the alias that named it, "" for the start.
    owner: the reverse-path by an owner- alias. depth: local aliases followed so far.
    is_target: it is for a command or a file, which the last of `via` says.
    """

    address: str
    via: tuple[str, ...]
    owner: str | None
    parent: str = ""
    depth: int = 0
    is_target: bool = False

    @property
    def key(self) -> str:
        """Equal for what need be delivered only once."""
        return address_key(self.address) + (self.via[-1] if self.is_target else "")


class Expansion(NamedTuple):
    """What a recipient becomes. answer: as `mail.Expanded.action`; "" also where it stays itself."""

    recipients: list[Recipient]
    answer: str = ""


class _Loop(Exception):
    """An alias leads back to one that is being expanded."""


class Expander:
    """Turns recipients into those that mail for them really goes to."""

    def __init__(
        self, settings: Settings, table: RoutingTable, read_include: ReadInclude = read_as_myself
    ) -> None:
        self._table = table
        self._read_include = read_include
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """From now on, by these (`table` is reconfigured by its owner)."""
        self._recursion_limit = settings.number("virtual_alias_recursion_limit")
        self._expansion_limit = settings.number("virtual_alias_expansion_limit")
        self._propagate = frozenset(settings.items("propagate_unmatched_extensions"))
        self._expand_owner = settings.flag("expand_owner_alias")
        self._reset_owner = settings.flag("reset_owner_alias")
        self._owner_request_special = settings.flag("owner_request_special")

    async def expand_all(
        self, recipients: Sequence[Recipient], reverse_path: str
    ) -> tuple[list[Recipient], list[tuple[str, Reply]], int]:
        """All recipients expanded, each person once; what could not be done, for the log; and how
        many were left out, as the same person. Among the first are those that are there for an
        answer only (`Recipient.answer`).

        One that cannot be expanded (see `expand`) stays as it is, and `RoutingTable.route` sends
        it to the expansion again. Raises TempFail where not even an address's class can be told.
        """
        qualify = self._table.rules.qualify
        direct, made = list[Recipient](), list[Recipient]()
        answers: dict[str, Recipient] = {}
        trouble: list[tuple[str, Reply]] = []
        domain, has_aliases = "", True
        for count, recipient in enumerate(recipients, 1):
            if not count % YIELD_AFTER:
                await asyncio.sleep(0)
            address = qualify(recipient.address)
            if address != recipient.address:
                recipient.orig_to = recipient.orig_to or recipient.address
                recipient.address = address
            try:
                # The recipients of a message are mostly of one domain: it is asked for once.
                if not (domain and address.endswith(domain)):
                    name = split_address(address)[1]
                    has_aliases = await self._table.has_aliases(name)
                    domain = f"@{name}" if name else ""
                if not (has_aliases or recipient.via):
                    direct.append(recipient)
                    continue
                found, answer = await self.expand(recipient, reverse_path)
            except (TempFail, PermFail) as failure:
                trouble.append((recipient.address, failure.reply))
                direct.append(recipient)
                continue
            if len(found) == 1 and found[0] is recipient:
                direct.append(recipient)
            else:
                made += found
                if answer and recipient.notify & Notify.SUCCESS and reverse_path:
                    key = address_key(recipient.address)
                    answers.setdefault(key, _for_answer(recipient, answer))
        count = len(direct) + len(made)
        if not made:
            found = direct if len(direct) == 1 else _once(direct)
        else:
            found = await self._each_person_once(direct, made, answers)
        merged = count - len(found)
        return [*found, *answers.values()] if answers else found, trouble, merged

    async def _each_person_once(
        self, direct: list[Recipient], made: list[Recipient], answers: dict[str, Recipient]
    ) -> list[Recipient]:
        """Whoever was named directly keeps that, and gets no second copy through an alias. A
        request for an answer that would go with such a copy is added to `answers`."""
        kept = _once(direct)
        seen: dict[str, Recipient] = {}
        for count, recipient in enumerate(kept, 1):
            if not count % YIELD_AFTER:
                await asyncio.sleep(0)
            seen[await self._person(recipient)] = recipient
        for count, recipient in enumerate(made, 1):
            if not count % YIELD_AFTER:
                await asyncio.sleep(0)
            person = await self._person(recipient)
            first = seen.setdefault(person, recipient)
            if first is recipient:
                kept.append(recipient)
            elif recipient.notify & Notify.SUCCESS and recipient.orig_to != first.orig_to:
                lost = replace(recipient, address=recipient.orig_to, orig_to="")
                answers.setdefault(address_key(lost.address), _for_answer(lost, "expanded"))
        return kept

    async def _person(self, recipient: Recipient) -> str:
        """What all addresses of one mailbox have in common. A command or a file is its own."""
        address = recipient.address
        if recipient.target is not None:
            return address + recipient.via[-1]
        local, domain = split_address(address)
        if await self._table.classify_domain(domain) is AddressClass.LOCAL:
            return local_name(address).lower()
        return f"{local}@{domain_key(domain)}"

    async def expand(self, recipient: Recipient, reverse_path: str) -> Expansion:
        """What a recipient becomes: itself (the same object) if no alias applies, else new ones,
        which have what the sender asked about notices as far as RFC 3461 §5.2.7 has it.

        Raises TempFail (a map or an included file fails) and PermFail (there is nothing but a
        loop).
        """
        if recipient.target is not None or recipient.answer:
            return Expansion([recipient])
        if not await self._table.has_aliases(split_address(recipient.address)[1]):
            return Expansion([recipient])
        work = deque([_Item(recipient.address, recipient.via, recipient.reverse_path)])
        final: dict[str, _Item] = {}
        looped = False
        answer = ""
        virtual_results = 0
        steps = 0
        while work:
            steps += 1
            if not steps % YIELD_AFTER:
                await asyncio.sleep(0)
            item = work.popleft()
            if item.is_target:
                final.setdefault(item.key, item)
                continue
            try:
                replaced = await self._replace(item)
            except _Loop:
                looped = True
                continue
            if replaced is None:
                final.setdefault(item.key, item)
                continue
            work.extendleft(reversed(replaced))
            # Until there is one, there is but this item.
            answer = answer or _answer(item, replaced)
            if replaced and "@" in replaced[0].parent:
                virtual_results += len(replaced)
                if virtual_results > self._expansion_limit:
                    raise _unreasonable(recipient.address, "expansion size")
        if looped and not final:
            text = f"alias database loop for {recipient.address}"
            raise PermFail(Reply(550, "5.4.6", text))
        return Expansion(_recipients(recipient, final.values(), reverse_path, answer), answer)

    async def _replace(self, item: _Item) -> list[_Item] | None:
        """What an alias puts in the place of an address; None if no alias applies. Raises _Loop."""
        domain = split_address(item.address)[1]
        address_class = await self._table.classify_domain(domain)
        is_local = address_class is AddressClass.LOCAL
        # As with Postfix, a local alias's local targets are not looked up as virtual ones.
        if self._table.virtual_alias_maps is not None and not (item.depth and is_local):
            mark = address_key(item.address)
            if mark not in item.via:
                virtual = await self._table.find_virtual(item.address, address_class)
                if virtual is not None:
                    return self._virtual(item, mark, *virtual)
            elif item.parent and mark != item.parent:
                raise _Loop
        if is_local and self._table.alias_maps is not None:
            return await self._local(item)
        return None

    def _virtual(self, item: _Item, mark: str, result: str, extension: str) -> list[_Item]:
        via = (*item.via, mark)
        if sum("@" in step for step in via) > self._recursion_limit:
            raise _unreasonable(item.address, "nesting")
        rules = self._table.rules
        local = split_address(item.address)[0]
        items = []
        for address in split_addresses(result):
            if address.startswith("@"):
                address = local + address
            elif extension and "virtual" in self._propagate:
                address = add_extension(address, extension)
            items.append(_Item(rules.qualify(address), via, item.owner, mark, item.depth))
        return items

    async def _local(self, item: _Item) -> list[_Item] | None:
        """aliases(5). An alias that names itself means the mailbox, as does ``\\user``."""
        name = local_name(item.address).lower()
        base = self._table.rules.split_extension(name)[0]
        if name in item.via:
            if item.parent and item.parent not in (name, base):
                raise _Loop
            return None
        found = await self._table.find_alias(item.address)
        if found is None:
            return None
        if item.depth >= _MAX_ALIAS_DEPTH:
            raise _Loop
        result, extension = found
        key = base if extension else name
        owner = await self._owner(key, item.owner)
        via = (*item.via, name) if name == key else (*item.via, name, key)
        items = []
        for target, stands_in in await follow_includes(key, result, self._read_include):
            if target.kind in (TargetKind.COMMAND, TargetKind.FILE):
                items.append(
                    self._target(
                        item, via, owner, LocalTarget(target.text, stands_in or "alias", key)
                    )
                )
                continue
            address = target.value
            if extension and "alias" in self._propagate:
                address = add_extension(address, extension)
            address = self._table.rules.qualify(address)
            marks = via
            is_mailbox = target.kind is TargetKind.MAILBOX
            if is_mailbox:
                marks = (*via, address_key(address), local_name(address).lower())
            elif self._table.virtual_alias_maps is not None and await self._is_local(address):
                # So that the queue does not look it up as a virtual alias either.
                marks = (address_key(address), *via)
            parent = marks[-1] if is_mailbox else key
            items.append(_Item(address, marks, owner, parent, item.depth + 1))
        return items

    def _target(
        self, item: _Item, via: tuple[str, ...], owner: str | None, target: LocalTarget
    ) -> _Item:
        """A command or a file keeps the address of the alias. Raises TempFail."""
        try:
            marks = (address_key(item.address), *via, target.mark())
        except ValueError as error:
            text = f"alias database error: {target.name}: {error}"
            raise TempFail(Reply(451, "4.3.5", text)) from error
        return _Item(item.address, marks, owner, depth=item.depth + 1, is_target=True)

    async def _is_local(self, address: str) -> bool:
        return await self._table.classify(address) is AddressClass.LOCAL

    async def _owner(self, name: str, current: str | None) -> str | None:
        """The reverse-path for members of the alias `name`."""
        if name.startswith("owner-") or (self._owner_request_special and name.endswith("-request")):
            return current
        owner = f"owner-{name}"
        assert self._table.alias_maps is not None
        found = await self._table.alias_maps.lookup(owner)
        if found is None:
            return None if self._reset_owner else current
        if self._expand_owner:
            addresses = split_addresses(found)
            if len(addresses) == 1:
                owner = addresses[0]
        return self._table.rules.qualify(owner)


def _once(recipients: list[Recipient]) -> list[Recipient]:
    """Addresses given twice, once, in whatever case (Postfix's duplicate filter). NOTIFY of the
    first counts."""
    # The keys of plain addresses differ if these do.
    lowered = {recipient.address.lower() for recipient in recipients if not recipient.via}
    if len(lowered) == len(recipients) and all(map(_is_plain, lowered)):
        return recipients
    found = {
        (address_key(recipient.address), recipient.target): recipient
        for recipient in reversed(recipients)
    }
    return list(found.values())[::-1]


def _is_plain(address: str) -> bool:
    """Whether its key is the address in lower case."""
    return address.isascii() and not address.endswith(".")


def _unreasonable(address: str, what: str) -> TempFail:
    text = f"unreasonable virtual_alias_maps map {what} for {address}"
    return TempFail(Reply(451, "4.3.0", text))


def _answer(item: _Item, replaced: Sequence[_Item]) -> str:
    """What RFC 3461 §5.2.7 has the sender told of this alias: that a mailing list got it (its owner
    hears of the rest); that there are several behind it; nothing, if there is one."""
    if not replaced:
        return "expanded"
    first = replaced[0]
    if first.owner is not None and first.owner != item.owner:
        return "delivered"
    return "expanded" if any(each.key != first.key for each in replaced) else ""


def _for_answer(recipient: Recipient, action: str) -> Recipient:
    """Stands for an alias in the queue until its sender has been told."""
    via = (*recipient.via, answer_mark(action))
    return replace(recipient, notify=Notify.SUCCESS, via=via, row=0)


def _recipients(
    recipient: Recipient, items: Iterable[_Item], reverse_path: str, answer: str
) -> list[Recipient]:
    """The new recipients. An owner gets the failures of his list (RFC 3461 §5.2.7.1: nothing the
    sender asked about notices goes on to the members); mail without a sender keeps none."""
    notify = recipient.notify.without_success() if answer else recipient.notify
    orcpt = recipient.orcpt
    if not orcpt and recipient.address.isascii():
        orcpt = "rfc822;" + xtext.encode(recipient.orig_to or recipient.address)
    made = []
    for item in items:
        if item.address == recipient.address and item.via == recipient.via:
            return [recipient]
        owned = item.owner is not None and item.owner != recipient.reverse_path and reverse_path
        orig_to = recipient.orig_to
        if item.address != recipient.address:
            orig_to = orig_to or recipient.address
        made.append(
            Recipient(
                item.address,
                orig_to=orig_to,
                reverse_path=item.owner if owned else recipient.reverse_path,
                orcpt="" if owned else orcpt,
                notify=Notify.UNSET if owned else notify,
                via=item.via,
            )
        )
    return made
