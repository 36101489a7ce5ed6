"""Access rules: who may connect, send from, send to (SMTPD_ACCESS_README).

A list of rules is a tuple of verbs. They are tried in order; the first that permits ends its list,
the first that refuses ends everything. As in Postfix a list that nothing ended permits.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from resel_mta.mail import AddressClass, Reply, Router
from resel_mta.smtpd.client import Client
from resel_mta.smtpd.options import Options
from resel_mta.wire.path import is_routed


class Permit(enum.Enum):
    """The verdict of a rule that ends its list in favour; None is no verdict."""

    OK = "ok"


Verdict = Permit | Reply | None


@dataclass(slots=True)
class Request:
    """What a rule may look at.

    subject: what the list is about, as the reply names it: "unknown[192.0.2.1]", the HELO name,
    the sender's or recipient's address as given. what: "Client host", "Helo command", …
    recipient: with its domain; "" before RCPT.
    """

    client: Client
    options: Options
    router: Router
    subject: str
    what: str
    recipient: str = ""


async def _permit(request: Request) -> Verdict:
    return Permit.OK


async def _reject(request: Request) -> Verdict:
    return _refusal(request, request.options.reject_code, "5.7.1", "Access denied")


async def _defer(request: Request) -> Verdict:
    return _refusal(request, request.options.defer_code, "4.3.2", "Try again later")


async def _permit_mynetworks(request: Request) -> Verdict:
    return Permit.OK if request.client.trusted else None


async def _permit_sasl_authenticated(request: Request) -> Verdict:
    return Permit.OK if request.client.sasl_username else None


async def _permit_inet_interfaces(request: Request) -> Verdict:
    return Permit.OK if request.client.own else None


async def _reject_unauth_destination(request: Request) -> Verdict:
    if await _is_authorized(request):
        return None
    return _relay_denied(request, request.options.relay_domains_reject_code)


async def _defer_unauth_destination(request: Request) -> Verdict:
    if await _is_authorized(request):
        return None
    return _relay_denied(request, 454)


async def _reject_unlisted_recipient(request: Request) -> Verdict:
    if not request.recipient:
        return None
    return await request.router.check_recipient(request.recipient)


Rule = Callable[[Request], Awaitable[Verdict]]

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "permit": _permit,
        "reject": _reject,
        "defer": _defer,
        "permit_mynetworks": _permit_mynetworks,
        "permit_sasl_authenticated": _permit_sasl_authenticated,
        "permit_inet_interfaces": _permit_inet_interfaces,
        "reject_unauth_destination": _reject_unauth_destination,
        "defer_unauth_destination": _defer_unauth_destination,
        "reject_unlisted_recipient": _reject_unlisted_recipient,
    }
)


async def evaluate(rules: tuple[str, ...], request: Request) -> Reply | None:
    """The refusal, or None if the list permits. Raises TempFail when a map fails."""
    for verb in rules:
        verdict = await RULES[verb](request)
        if verdict is Permit.OK:
            return None
        if isinstance(verdict, Reply):
            return verdict
    return None


async def permits(rules: tuple[str, ...], request: Request) -> bool:
    """Whether some rule of the list permits, for lists that mean nothing else
    (local_header_rewrite_clients); verbs that are no access rules permit nothing."""
    for verb in rules:
        rule = RULES.get(verb.lower())
        if rule is not None and await rule(request) is Permit.OK:
            return True
    return False


class AccessPolicy:
    """The rule lists of one session. All methods give the refusal or None, and raise TempFail.

    early: without smtpd_delay_reject, `on_connect`, `on_helo` and `on_mail` are to be asked when
    their time comes; else they have nothing to say.
    """

    __slots__ = ("_client", "_options", "_router", "early")

    def __init__(self, options: Options, router: Router, client: Client) -> None:
        self._options = options
        self._router = router
        self._client = client
        self.early = not options.delay_reject

    async def on_connect(self) -> Reply | None:
        return await self._client_rules() if self.early else None

    async def on_helo(self) -> Reply | None:
        return await self._helo_rules() if self.early else None

    async def on_mail(self, sender: str) -> Reply | None:
        return await self._sender_rules(sender) if self.early else None

    async def on_rcpt(self, sender: str | None, recipient: str, shown: str) -> Reply | None:
        """sender: None for VRFY. shown: the recipient as the client wrote it."""
        options = self._options
        if not self.early and options.has_early_rules:
            refusal = await self._client_rules() or await self._helo_rules()
            if refusal is None and sender is not None:
                refusal = await self._sender_rules(sender)
            if refusal is not None:
                return refusal
        if shown.lower() == "postmaster":
            # RFC 5321 §4.5.1: always, also without a domain.
            return None
        request = Request(
            self._client, options, self._router, shown, "Recipient address", recipient
        )
        lists = [options.relay_restrictions, options.recipient_restrictions]
        if not options.relay_before_recipient:
            lists.reverse()
        for rules in lists:
            if rules and (refusal := await evaluate(rules, request)) is not None:
                return refusal
        if options.reject_unlisted_recipient:
            return await self._router.check_recipient(recipient)
        return None

    async def on_data(self) -> Reply | None:
        return await self._of(self._options.data_restrictions, "DATA", "Data command")

    async def on_end_of_data(self) -> Reply | None:
        return await self._of(
            self._options.end_of_data_restrictions, "END-OF-MESSAGE", "End-of-data"
        )

    async def rewrites_header(self) -> bool:
        """local_header_rewrite_clients: whether this client's mail gets missing fields."""
        request = Request(self._client, self._options, self._router, "", "")
        return await permits(self._options.rewrite_clients, request)

    async def _client_rules(self) -> Reply | None:
        rules = self._options.client_restrictions
        return await self._of(rules, self._client.label(), "Client host")

    async def _helo_rules(self) -> Reply | None:
        if not self._client.helo:
            return None
        rules = self._options.helo_restrictions
        return await self._of(rules, self._client.helo, "Helo command")

    async def _sender_rules(self, sender: str) -> Reply | None:
        return await self._of(self._options.sender_restrictions, sender, "Sender address")

    async def _of(self, rules: tuple[str, ...], subject: str, what: str) -> Reply | None:
        if not rules:
            return None
        return await evaluate(
            rules, Request(self._client, self._options, self._router, subject, what)
        )


async def _is_authorized(request: Request) -> bool:
    """Whether the recipient is one that we are the destination or a relay for. An address that
    names a further hop ("user%other@ours") is not, whatever its domain."""
    if not request.recipient:
        return True
    if is_routed(request.recipient) and not request.options.allow_untrusted_routing:
        return False
    return await request.router.classify(request.recipient) is not AddressClass.DEFAULT


def _relay_denied(request: Request, code: int) -> Reply:
    enhanced = "5.7.1" if code >= 500 else "4.7.1"
    return Reply(code, enhanced, f"<{request.subject}>: Relay access denied")


def _refusal(request: Request, code: int, enhanced: str, text: str) -> Reply:
    enhanced = f"{code // 100}{enhanced[1:]}"
    return Reply(code, enhanced, f"<{request.subject}>: {request.what} rejected: {text}")
