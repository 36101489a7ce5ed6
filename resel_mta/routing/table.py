"""`RoutingTable`: the class of an address, whether it exists, and how mail for it goes on."""

from __future__ import annotations

from collections.abc import Collection

from resel_mta.config import Settings
from resel_mta.config.maps import MapSet, MatchList, open_maps
from resel_mta.local_target import LocalTarget
from resel_mta.mail import AddressClass, Reply, Route
from resel_mta.routing.address import (
    AddressRules,
    address_key,
    domain_forms,
    domain_key,
    local_name,
)
from resel_mta.routing.targets import targets_of
from resel_mta.routing.transport import parse_transport, transport_keys
from resel_mta.users import Users
from resel_mta.wire.path import split_address

#: The transport that expands what could not be expanded when it came.
EXPAND = "expand"

#: The users, in local_recipient_maps.
_PASSWD = frozenset(("proxy:unix:passwd.byname", "unix:passwd.byname"))

_MOST_KNOWN = 10_000
"""Domains whose route is remembered."""
_UNKNOWN = {
    AddressClass.LOCAL: ("unknown_local_recipient_reject_code", "local recipient"),
    AddressClass.VIRTUAL_ALIAS: ("unknown_virtual_alias_reject_code", "virtual alias"),
    AddressClass.VIRTUAL_MAILBOX: ("unknown_virtual_mailbox_reject_code", "virtual mailbox"),
    AddressClass.RELAY: ("unknown_relay_recipient_reject_code", "relay recipient"),
}


class RoutingTable:
    """Implements `mail.Router` from the configuration, and gives the maps to the `Expander`."""

    def __init__(self, settings: Settings, users: Users) -> None:
        self.users = users
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """From now on, by these."""
        self.settings = settings
        self.rules = AddressRules(settings)
        self._routes: dict[str, Route] = {}
        self._classes = tuple(
            (address_class, MatchList(settings, name))
            for address_class, name in (
                (AddressClass.LOCAL, "mydestination"),
                (AddressClass.VIRTUAL_ALIAS, "virtual_alias_domains"),
                (AddressClass.VIRTUAL_MAILBOX, "virtual_mailbox_domains"),
                (AddressClass.RELAY, "relay_domains"),
            )
            if settings.text(name).strip()
        )
        # Whether a domain's class stays the same until then.
        self._fixed = all(names.is_fixed for _, names in self._classes)
        self.alias_maps = self.open_maps(settings, "alias_maps")
        self.virtual_alias_maps = self.open_maps(settings, "virtual_alias_maps")
        self._virtual_mailbox_maps = self.open_maps(settings, "virtual_mailbox_maps")
        self._relay_recipient_maps = self.open_maps(settings, "relay_recipient_maps")
        self._transport_maps = self.open_maps(settings, "transport_maps")
        self._bare_parents = "transport_maps" in settings.items("parent_domain_matches_subdomains")
        local = settings.items("local_recipient_maps")
        aliases = set(settings.items("alias_maps"))
        self._check_local = bool(local)
        self._users_are_local = not _PASSWD.isdisjoint(local)
        self._aliases_are_local = aliases.issubset(local)
        others = set(local) - aliases - _PASSWD
        self._local_maps = self.open_maps(settings, "local_recipient_maps") if others else None
        self._relayhost = settings.text("relayhost").strip()
        self._transports = {
            name: parse_transport(settings.text(name))
            for name in (
                "local_transport",
                "virtual_transport",
                "relay_transport",
                "default_transport",
            )
        }

    def open_maps(self, settings: Settings, name: str) -> MapSet | None:
        """The maps of a parameter, None where it is empty. All of routing opens them here, so that
        `explain` can watch them."""
        return open_maps(settings, name) if settings.text(name).strip() else None

    async def classify(self, address: str) -> AddressClass:
        """Raises TempFail when a map fails."""
        address = self.rules.qualify(address)
        return await self.classify_domain(split_address(address)[1])

    async def classify_domain(self, domain: str) -> AddressClass:
        """The class of all addresses of a domain. Raises TempFail."""
        if domain.startswith("["):
            own = self._is_own_literal(domain)
            return AddressClass.LOCAL if own else AddressClass.DEFAULT
        for form in domain_forms(domain_key(domain)):
            for address_class, names in self._classes:
                if await names.matches(form):
                    return address_class
        return AddressClass.DEFAULT

    async def has_aliases(self, domain: str) -> bool:
        """Whether an alias may stand for an address of the domain. Raises TempFail."""
        if domain in self._routes:
            return False
        if self.virtual_alias_maps is not None or self.alias_maps is None:
            return self.virtual_alias_maps is not None
        return self._has_aliases(await self.classify_domain(domain))

    def _has_aliases(self, address_class: AddressClass) -> bool:
        if self.virtual_alias_maps is not None:
            return True
        return self.alias_maps is not None and address_class is AddressClass.LOCAL

    def _is_own_literal(self, domain: str) -> bool:
        """RFC 5321 §4.1.3: [192.0.2.1] and [IPv6:2001:db8::1]."""
        text = domain.strip("[]")
        if text[:5].lower() == "ipv6:":
            text = text[5:]
        return self.settings.is_own_address(text, 25)

    async def check_recipient(self, address: str) -> Reply | None:
        """None if mail for it can be accepted; else the refusal, in Postfix's words. Raises TempFail."""
        full = self.rules.qualify(address)
        address_class = await self.classify(full)
        if address_class is AddressClass.DEFAULT or await self._exists(full, address_class):
            return None
        parameter, table = _UNKNOWN[address_class]
        code = self.settings.number(parameter)
        where = f" in {table} table" if self.settings.flag("show_user_unknown_table_name") else ""
        text = f"<{address}>: Recipient address rejected: User unknown{where}"
        return Reply(code, f"{code // 100}.1.1", text)

    async def _exists(self, address: str, address_class: AddressClass) -> bool:
        if await self.find_virtual(address, address_class) is not None:
            return True
        match address_class:
            case AddressClass.LOCAL:
                return await self._is_local_recipient(address)
            case AddressClass.VIRTUAL_MAILBOX:
                return await self._is_virtual_mailbox(address)
            case AddressClass.RELAY:
                maps = self._relay_recipient_maps
                return maps is None or await self._in_maps(maps, address, address_class)
            case _:
                return False

    async def _is_local_recipient(self, address: str) -> bool:
        if not self._check_local:
            return True
        if self._aliases_are_local and await self.find_alias(address) is not None:
            return True
        if self._users_are_local:
            name = local_name(address)
            base, extension = self.rules.split_extension(name)
            if await self.users.find(name) or (extension and await self.users.find(base)):
                return True
        maps = self._local_maps
        return maps is not None and await self._in_maps(maps, address, AddressClass.LOCAL)

    async def _is_virtual_mailbox(self, address: str) -> bool:
        if self._virtual_mailbox_maps is not None:
            return await self._in_maps(
                self._virtual_mailbox_maps, address, AddressClass.VIRTUAL_MAILBOX
            )
        if self._transports["virtual_transport"][0] != "virtual":
            return True
        local, domain = split_address(address)
        base, _ = self.rules.split_extension(local)
        return bool(await self.users.find(address) or await self.users.find(f"{base}@{domain}"))

    async def _in_maps(self, maps: MapSet, address: str, address_class: AddressClass) -> bool:
        return await self.find(maps, address, address_class) is not None

    async def find_virtual(
        self, address: str, address_class: AddressClass
    ) -> tuple[str, str] | None:
        """(result, unmatched extension) of virtual_alias_maps for an address. Raises TempFail."""
        if self.virtual_alias_maps is None:
            return None
        return await self.find(self.virtual_alias_maps, address, address_class)

    async def find_alias(self, address: str) -> tuple[str, str] | None:
        """(result, unmatched extension) of alias_maps for a local address. Raises TempFail."""
        if self.alias_maps is None:
            return None
        name = local_name(address).lower()
        base, extension = self.rules.split_extension(name)
        for key, rest in ((name, ""), (base, extension)) if extension else ((name, ""),):
            found = await self.alias_maps.lookup(key)
            if found is not None:
                return found, rest
        return None

    async def find(
        self, maps: MapSet, address: str, address_class: AddressClass
    ) -> tuple[str, str] | None:
        """Postfix's search: user+ext@domain, user@domain, user+ext, user, @domain; the bare ones
        only where the domain is this machine's own or myorigin."""
        local, domain = split_address(address)
        base, extension = self.rules.split_extension(local)
        forms = ((local, ""), (base, extension)) if extension else ((local, ""),)
        domains = domain_forms(domain_key(domain))
        for name, rest in forms:
            for form in domains:
                found = await maps.lookup(f"{name}@{form}")
                if found is not None:
                    return found, rest
        if address_class is AddressClass.LOCAL or domains[0] == domain_key(self.rules.myorigin):
            for name, rest in forms:
                found = await maps.lookup(name)
                if found is not None:
                    return found, rest
        for form in domains:
            found = await maps.lookup(f"@{form}")
            if found is not None:
                return found, ""
        return None

    async def _must_expand(
        self, address: str, address_class: AddressClass, via: Collection[str]
    ) -> bool:
        """Whether a virtual or local alias applies whose mark is not in `via`."""
        virtual = self.virtual_alias_maps is not None and address_key(address) not in via
        if virtual and await self.find_virtual(address, address_class) is not None:
            return True
        if address_class is not AddressClass.LOCAL or self.alias_maps is None:
            return False
        if local_name(address).lower() in via:
            return False
        return await self.find_alias(address) is not None

    async def names(self, target: LocalTarget) -> bool:
        """Whether an alias (still) names this command or file. Raises TempFail."""
        if target.source == "forward":
            return True
        found = None if self.alias_maps is None else await self.alias_maps.lookup(target.name)
        wanted = target.text if target.source == "alias" else f":include:{target.source}"
        return found is not None and any(
            each.text == wanted for each in targets_of(target.name, found)
        )

    async def route(self, address: str, reverse_path: str = "", via: Collection[str] = ()) -> Route:
        """Where mail for an address goes; to `EXPAND` first if an alias applies that is not in
        `via`. Raises TempFail."""
        address = self.rules.qualify(address)
        domain = split_address(address)[1]
        address_class = await self.classify_domain(domain)
        target = LocalTarget.last_of(tuple(via)) if via else None
        if target is not None:
            return Route("local" if await self.names(target) else EXPAND, domain)
        aliases = self._has_aliases(address_class)
        if aliases and await self._must_expand(address, address_class, via):
            return Route(EXPAND, domain)
        maps = self._transport_maps
        route = self._route_class(address_class, domain, alike=not aliases and maps is None)
        if maps is None:
            if route.alike and self._fixed and domain[:1] != "[":
                if len(self._routes) >= _MOST_KNOWN:
                    self._routes.clear()
                self._routes[domain] = route
            return route
        return await self._by_transport_maps(maps, address, route)

    def known_route(self, address: str) -> Route | None:
        """What `route` gives for an address without `via`, where another one of its domain has
        told that until the next `reconfigure`; else None. No alias can stand for such an address.
        """
        _, at, domain = address.rpartition("@")
        return self._routes.get(domain) if at and address[0] != '"' else None

    def _route_class(self, address_class: AddressClass, domain: str, *, alike: bool) -> Route:
        """The route by address class alone. alike: as in `Route`."""
        match address_class:
            case AddressClass.VIRTUAL_ALIAS:
                text = "5.1.1 User unknown in virtual alias table"
                return Route("error", text, alike=alike)
            case AddressClass.LOCAL:
                transport, nexthop = self._transports["local_transport"]
                return Route(transport, nexthop or domain, alike=alike)
            case AddressClass.VIRTUAL_MAILBOX:
                transport, nexthop = self._transports["virtual_transport"]
                return Route(transport, nexthop or domain, alike=alike)
            case AddressClass.RELAY:
                transport, nexthop = self._transports["relay_transport"]
            case AddressClass.DEFAULT:
                transport, nexthop = self._transports["default_transport"]
        if nexthop:
            return Route(transport, nexthop, "transport_maps", alike)
        if self._relayhost:
            return Route(transport, self._relayhost, "relayhost", alike)
        return Route(transport, domain, alike=alike)

    async def _by_transport_maps(self, maps: MapSet, address: str, route: Route) -> Route:
        domain = split_address(address)[1]
        for key in transport_keys(address, self.rules, bare_parents=self._bare_parents):
            found = await maps.lookup(key)
            if found is None:
                continue
            transport, nexthop = parse_transport(found)
            if nexthop:
                return Route(transport or route.transport, nexthop, "transport_maps")
            # A transport alone also takes back what relayhost said; neither changes nothing.
            return Route(transport, domain) if transport else route
        return route
