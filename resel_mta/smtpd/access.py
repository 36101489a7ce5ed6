"""Access rules: who may connect, send from, send to (SMTPD_ACCESS_README).

A list of rules is a tuple of verbs. They are tried in order; the first that permits ends its list,
the first that refuses ends everything. As in Postfix a list that nothing ended permits.

Nothing here waits. A rule that needs to know what must be looked up raises `LookUp`;
`AccessPolicy.settle` looks it up and evaluates again.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from resel_mta.mail import AddressClass, Reply
from resel_mta.smtpd.client import Client
from resel_mta.smtpd.names import Known
from resel_mta.smtpd.options import Options
from resel_mta.smtpd.recipients import Facts, LookUp, RecipientTable
from resel_mta.wire.path import is_routed


class Permit(enum.Enum):
    """The verdict of a rule that ends its list in favour; None is no verdict."""

    OK = "ok"


Verdict = Permit | Reply | None


class FactsOf(Protocol):
    """What is known about a recipient."""

    def __call__(self, address: str, *, checked: bool) -> Facts:
        """checked: also whether mail for it can be accepted. Raises LookUp."""
        ...


@dataclass(slots=True)
class Request:
    """What a rule may look at.

    facts: about the recipient; raises LookUp when they are not known yet.
    subject: what the list is about, as the reply names it: "unknown[192.0.2.1]", the HELO name,
    the sender's or recipient's address as given. what: "Client host", "Helo command", …
    recipient: with its domain; "" before RCPT.
    """

    client: Client
    options: Options
    facts: FactsOf
    subject: str
    what: str
    recipient: str = ""


def _permit(request: Request) -> Verdict:
    return Permit.OK


def _reject(request: Request) -> Verdict:
    return _refusal(request, request.options.reject_code, "5.7.1", "Access denied")


def _defer(request: Request) -> Verdict:
    return _refusal(request, request.options.defer_code, "4.3.2", "Try again later")


def _permit_mynetworks(request: Request) -> Verdict:
    return Permit.OK if request.client.trusted else None


def _permit_sasl_authenticated(request: Request) -> Verdict:
    return Permit.OK if request.client.sasl_username else None


def _permit_inet_interfaces(request: Request) -> Verdict:
    return Permit.OK if request.client.own else None


def _reject_unauth_destination(request: Request) -> Verdict:
    if _is_authorized(request):
        return None
    return _relay_denied(request, request.options.relay_domains_reject_code)


def _defer_unauth_destination(request: Request) -> Verdict:
    if _is_authorized(request):
        return None
    return _relay_denied(request, 454)


def _reject_unlisted_recipient(request: Request) -> Verdict:
    if not request.recipient:
        return None
    return request.facts(request.recipient, checked=True).refusal


Rule = Callable[[Request], Verdict]


def _reject_unauth_pipelining(request: Request) -> Verdict:
    if not request.client.pipelining:
        return None
    return _refusal(request, 503, "5.5.0", "Improper use of SMTP command pipelining")


def _reject_unknown_client_hostname(request: Request) -> Verdict:
    return _unknown_client(request, request.client.names.verified, "hostname")


def _reject_unknown_reverse_client_hostname(request: Request) -> Verdict:
    return _unknown_client(request, request.client.names.reverse, "reverse hostname")


def _unknown_client(request: Request, known: Known, what: str) -> Verdict:
    if known is Known.YES:
        return None
    # What failed for now may be there when the client comes again.
    code = request.options.unknown_client_reject_code if known is Known.NO else 450
    text = f"Client host rejected: cannot find your {what}, [{request.client.address}]"
    return Reply(code, f"{code // 100}.7.1", text)


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
        "reject_unauth_pipelining": _reject_unauth_pipelining,
        "reject_unknown_client_hostname": _reject_unknown_client_hostname,
        "reject_unknown_reverse_client_hostname": _reject_unknown_reverse_client_hostname,
    }
)


def evaluate(rules: tuple[str, ...], request: Request) -> Reply | None:
    """The refusal, or None if the list permits. Raises LookUp."""
    for verb in rules:
        verdict = RULES[verb](request)
        if verdict is Permit.OK:
            return None
        if isinstance(verdict, Reply):
            return verdict
    return None


def permits(rules: tuple[str, ...], request: Request) -> bool:
    """Whether some rule of the list permits, for lists that mean nothing else
    (local_header_rewrite_clients); verbs that are no access rules permit nothing."""
    for verb in rules:
        rule = RULES.get(verb.lower())
        if rule is not None and rule(request) is Permit.OK:
            return True
    return False


class AccessPolicy:
    """The rule lists of one session. All methods give the refusal or None, or raise LookUp: use
    `settle` then.

    early: without smtpd_delay_reject, `on_connect`, `on_helo` and `on_mail` are to be asked when
    their time comes; else they have nothing to say.
    """

    __slots__ = ("_answer", "_asked", "_client", "_options", "_recipients", "early")

    def __init__(self, options: Options, recipients: RecipientTable, client: Client) -> None:
        self._options = options
        self._recipients = recipients
        self._client = client
        self._asked: LookUp | None = None
        self._answer: Facts
        self.early = not options.delay_reject

    async def settle(self, check: Callable[[], Reply | None]) -> Reply | None:
        """What `check` gives, once all that it asks for has been looked up. Raises TempFail."""
        try:
            while True:
                try:
                    return check()
                except LookUp as question:
                    self._asked = question
                    self._answer = await self._recipients.learn(
                        question.address, checked=question.checked
                    )
        finally:
            self._asked = None

    def _facts(self, address: str, *, checked: bool) -> Facts:
        asked = self._asked
        if asked is not None and asked.address == address and asked.checked >= checked:
            return self._answer
        facts = self._recipients.get(address, checked=checked)
        if facts is None:
            raise LookUp(address, checked=checked)
        return facts

    def on_connect(self) -> Reply | None:
        return self._client_rules() if self.early else None

    def on_helo(self) -> Reply | None:
        return self._helo_rules() if self.early else None

    def on_mail(self, sender: str) -> Reply | None:
        return self._sender_rules(sender) if self.early else None

    def on_rcpt(self, sender: str | None, recipient: str, shown: str) -> Reply | None:
        """sender: None for VRFY. shown: the recipient as the client wrote it."""
        options = self._options
        if not self.early and options.has_early_rules:
            refusal = self._client_rules() or self._helo_rules()
            if refusal is None and sender is not None:
                refusal = self._sender_rules(sender)
            if refusal is not None:
                return refusal
        if shown.lower() == "postmaster":
            # RFC 5321 §4.5.1: always, also without a domain.
            return None
        request = Request(self._client, options, self._facts, shown, "Recipient address", recipient)
        for rules in options.recipient_lists:
            if (refusal := evaluate(rules, request)) is not None:
                return refusal
        if options.reject_unlisted_recipient:
            return self._facts(recipient, checked=True).refusal
        return None

    def on_data(self) -> Reply | None:
        return self._of(self._options.data_restrictions, "DATA", "Data command")

    def on_end_of_data(self) -> Reply | None:
        return self._of(self._options.end_of_data_restrictions, "END-OF-MESSAGE", "End-of-data")

    def rewrites_header(self) -> bool:
        """local_header_rewrite_clients: whether this client's mail gets missing fields."""
        request = Request(self._client, self._options, self._facts, "", "")
        return permits(self._options.rewrite_clients, request)

    def _client_rules(self) -> Reply | None:
        rules = self._options.client_restrictions
        return self._of(rules, self._client.label(), "Client host")

    def _helo_rules(self) -> Reply | None:
        if not self._client.helo:
            return None
        rules = self._options.helo_restrictions
        return self._of(rules, self._client.helo, "Helo command")

    def _sender_rules(self, sender: str) -> Reply | None:
        return self._of(self._options.sender_restrictions, sender, "Sender address")

    def _of(self, rules: tuple[str, ...], subject: str, what: str) -> Reply | None:
        if not rules:
            return None
        return evaluate(rules, Request(self._client, self._options, self._facts, subject, what))


def _is_authorized(request: Request) -> bool:
    """Whether the recipient is one that we are the destination or a relay for. An address that
    names a further hop ("user%other@ours") is not, whatever its domain."""
    if not request.recipient:
        return True
    if is_routed(request.recipient) and not request.options.allow_untrusted_routing:
        return False
    facts = request.facts(request.recipient, checked=False)
    return facts.address_class is not AddressClass.DEFAULT


def _relay_denied(request: Request, code: int) -> Reply:
    enhanced = "5.7.1" if code >= 500 else "4.7.1"
    return Reply(code, enhanced, f"<{request.subject}>: Relay access denied")


def _refusal(request: Request, code: int, enhanced: str, text: str) -> Reply:
    enhanced = f"{code // 100}{enhanced[1:]}"
    return Reply(code, enhanced, f"<{request.subject}>: {request.what} rejected: {text}")
