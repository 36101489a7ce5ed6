"""What `resel-mta explain` says, in English and French. The facts are `explain_follow`'s."""

from __future__ import annotations

from collections.abc import Iterator

from resel_mta.commands.explain_follow import End, Followed
from resel_mta.commands.language import Speaker, Text
from resel_mta.mail import Reply
from resel_mta.routing.explain import Step

_STEPS: dict[str, Text] = {
    "completed": ("{subject} has no full domain: it is {result}", "{subject} n'a pas de domaine complet : c'est {result}"),
    "known": ("{subject} is a known recipient", "{subject} est un destinataire connu"),
    "canonical": ("{subject} is rewritten to {result}", "{subject} est réécrit en {result}"),
    "virtual": ("{subject} is a virtual alias for {result}", "{subject} est un alias virtuel pour {result}"),
    "alias": ("{subject} is an alias for {result}", "{subject} est un alias pour {result}"),
    "copy": ("a copy of mail for {subject} goes to {result}", "une copie du courrier pour {subject} va à {result}"),
    "transport_maps": ("mail for {subject} has a transport of its own: {result}", "le courrier pour {subject} a son propre transport : {result}"),
    "relayhost": ("mail for {subject} goes by way of {result}", "le courrier pour {subject} passe par {result}"),
    "class_transport": ("the transport for {subject} is {result}", "le transport pour {subject} est {result}"),
}  # fmt: skip
_CLASSES: dict[str, Text] = {
    "local": ("{subject} is this machine itself", "{subject} est cette machine elle-même"),
    "virtual alias": ("{subject} is a domain of virtual aliases", "{subject} est un domaine d'alias virtuels"),
    "virtual mailbox": ("{subject} is a domain with mailboxes here", "{subject} est un domaine dont les boîtes sont ici"),
    "relay": ("{subject} is a domain that is relayed", "{subject} est un domaine relayé"),
    "default": ("{subject} belongs to other machines", "{subject} appartient à d'autres machines"),
}  # fmt: skip
_ENDS: dict[str, Text] = {
    "maildir": ("into the mailbox {what}", "dans la boîte aux lettres {what}"),
    "mbox": ("into the mailbox (mbox file) {what}", "dans la boîte aux lettres (fichier mbox) {what}"),
    "command": ("to the command {what}", "à la commande {what}"),
    "file": ("appended to the file {what}", "ajouté au fichier {what}"),
    "forward": ("forwarded as {what} says", "redirigé selon {what}"),
    "smtp": ("by SMTP to {what}", "par SMTP à {what}"),
    "lmtp": ("by LMTP to {what}", "par LMTP à {what}"),
    "discard": ("thrown away", "jeté"),
    "bounce": ("returned to the sender", "renvoyé à l'expéditeur"),
    "wait": ("waits in the queue, for now", "attend dans la file, pour l'instant"),
}  # fmt: skip
_END: Text = ("{address}: {what}", "{address} : {what}")
_DEFAULT: Text = ("default", "valeur par défaut")
_COMMAND_LINE: Text = ("command line", "ligne de commande")
_ROLE: Text = ("role {role}", "rôle {role}")
_BY: Text = ("{line} ({parameter}, set at {set_at})", "{line} ({parameter}, défini dans {set_at})")
_BY_DEFAULT: Text = ("{line} ({parameter}, {set_at})", "{line} ({parameter}, {set_at})")
_ACCEPTED: Text = ("Mail for {address} is accepted.", "Le courrier pour {address} est accepté.")
_RELAYED: Text = (
    "Mail for {address} is accepted from clients that may relay: smtpd_relay_restrictions ({set_at}).",
    "Le courrier pour {address} est accepté des clients qui peuvent relayer : smtpd_relay_restrictions ({set_at}).",
)
_REFUSED: Text = (
    "Mail for {address} is refused: {reply}",
    "Le courrier pour {address} est refusé : {reply}",
)
_LOCALLY: Text = (
    "Were it in the queue all the same:",
    "S'il se trouvait tout de même dans la file :",
)
_NOBODY: Text = ("nobody: the alias names no one", "personne : l'alias ne nomme personne")
_RIGHTS: Text = ("with the rights of {account}", "avec les droits de {account}")
_FAILURES: Text = ("failures are reported to {address}", "les échecs sont signalés à {address}")
_NO_MX: Text = ("(this host itself, no MX look-up)", "(cet hôte même, sans recherche de MX)")
_HOSTS: Text = ("tried in this order:", "essayés dans cet ordre :")
_PREFERENCE: Text = ("preference {preference}", "préférence {preference}")
_CANNOT: Text = ("cannot be found now: {reply}", "introuvable pour l'instant : {reply}")


class Report:
    """The lines of an explanation."""

    def __init__(self, speaker: Speaker) -> None:
        self._say = speaker.say

    def lines(self, followed: Followed) -> Iterator[str]:
        """All of it, for a terminal."""
        explanation = followed.explanation
        refusal = explanation.refusal
        if refusal is not None:
            yield self._say(_REFUSED, address=explanation.address, reply=refusal)
            yield self._say(_LOCALLY)
        elif explanation.relay_rule:
            set_at = self._set_at(explanation.relay_rule)
            yield self._say(_RELAYED, address=explanation.address, set_at=set_at)
        else:
            yield self._say(_ACCEPTED, address=explanation.address)
        yield from self._followed(followed, "")

    def _followed(self, followed: Followed, indent: str) -> Iterator[str]:
        number = 0
        for step in followed.explanation.steps:
            number += 1
            yield from self._step(number, step, indent)
        if not followed.ends:
            yield f"{indent}  => {self._say(_NOBODY)}"
        for end in followed.ends:
            # With several ends each has its own rules before it, counted on.
            place = number
            for step in end.destination.steps:
                place += 1
                yield from self._step(place, step, indent)
            yield from self._end(end, indent)

    def _step(self, number: int, step: Step, indent: str) -> Iterator[str]:
        text = _CLASSES[step.result] if step.kind == "class" else _STEPS[step.kind]
        result = " ".join(step.result.split())
        yield f"{indent}{number:3}. {self._say(text, subject=step.subject, result=result)}"
        place = self.place(step)
        if place:
            yield f"{indent}       {place}"

    def place(self, step: Step) -> str:
        """Where the rule is: file and line, and what leads there."""
        if not step.parameter:
            return ""
        set_at = self._set_at(step.set_at)
        found = step.line or step.table
        if not found:
            return f"{step.parameter} ({set_at})"
        text = _BY if step.set_at.startswith("/") else _BY_DEFAULT
        return self._say(text, line=found, parameter=step.parameter, set_at=set_at)

    def _set_at(self, source: str) -> str:
        """Where a parameter is set, in the reader's language."""
        if source == "default":
            return self._say(_DEFAULT)
        if source == "command line":
            return self._say(_COMMAND_LINE)
        if source.startswith("role "):
            return self._say(_ROLE, role=source.removeprefix("role "))
        return source

    def _end(self, end: End, indent: str) -> Iterator[str]:
        recipient = end.destination.recipient
        what = self._say(_ENDS[end.kind], what=end.what)
        line = f"{indent}  => {self._say(_END, address=recipient.address, what=what)}"
        if end.kind in ("smtp", "lmtp") and end.what.startswith("["):
            line += f" {self._say(_NO_MX)}"
        yield line
        inner = f"{indent}       "
        if end.account:
            yield inner + self._say(_RIGHTS, account=end.account)
        if recipient.reverse_path is not None:
            yield inner + self._say(_FAILURES, address=recipient.reverse_path)
        yield from (inner + line for line in self._hosts(end, end.reply))
        for each in end.onward:
            yield from self._followed(each, f"{indent}     ")

    def _hosts(self, end: End, reply: Reply | None) -> Iterator[str]:
        if reply is not None:
            is_remote = end.kind in ("smtp", "lmtp")
            yield self._say(_CANNOT, reply=reply) if is_remote else str(reply)
        if len(end.hosts) > 1:
            yield self._say(_HOSTS)
        for host in end.hosts:
            preference = ""
            if not end.what.startswith("["):
                preference = f"  {self._say(_PREFERENCE, preference=host.preference)}"
            yield f"  {host.relay}{preference}"
