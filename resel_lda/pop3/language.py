"""What the server says to people, in the languages of LANG (RFC 6856 §3).

Texts stand in the code in English, with the values that they show in braces; `Language.say` has
them in its own words. What comes from other rooms (an error of the store) stays in English.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_FRENCH = {
    "Authentication aborted by client.": "Authentification abandonnée par le client.",
    "Authentication failed.": "Échec de l'authentification.",
    "Authentication response is too long.": "La réponse d'authentification est trop longue.",
    "Begin TLS negotiation now.": "Commencez la négociation TLS.",
    "Command line too long.": "Ligne de commande trop longue.",
    "Disconnected for inactivity.": "Déconnexion pour inactivité.",
    "Invalid base64 data.": "Données base64 invalides.",
    "Invalid message number: {shown}": "Numéro de message invalide : {shown}",
    "Invalid size: {shown}": "Taille invalide : {shown}",
    "Language changed.": "Langue changée.",
    "Language listing follows:": "Liste des langues :",
    "Logged in.": "Connexion établie.",
    "Logging out": "Au revoir",
    "Logging out, messages deleted.": "Au revoir, messages supprimés.",
    "Logging out.": "Au revoir.",
    "Mailbox is locked by another POP3 session.": (
        "La boîte est verrouillée par une autre session POP3."
    ),
    "Marked to be deleted.": "Marqué pour suppression.",
    "Message is deleted.": "Le message est supprimé.",
    "Message is gone: another client has removed it.": (
        "Le message n'existe plus : un autre client l'a supprimé."
    ),
    "No username given.": "Aucun nom d'utilisateur n'a été donné.",
    "Noise after message number: {shown}": "Texte superflu après le numéro de message : {shown}",
    "Plaintext authentication disallowed on non-secure (SSL/TLS) connections.": (
        "Authentification en clair interdite sur une connexion sans TLS."
    ),
    "STLS is not possible after UTF8.": "STLS n'est pas possible après UTF8.",
    "Server shutting down.": "Arrêt du serveur.",
    "Some messages were not removed.": "Des messages n'ont pas été supprimés.",
    "TLS is already active.": "TLS est déjà actif.",
    "TLS support isn't enabled.": "TLS n'est pas disponible.",
    "Temporary authentication failure.": "Échec temporaire de l'authentification.",
    "The mechanism expects more than PASS can say.": (
        "Le mécanisme attend plus que PASS ne peut dire."
    ),
    "There's no message {number}.": "Il n'y a pas de message {number}.",
    "This language is unknown: {shown}": "Cette langue est inconnue : {shown}",
    "Too many authentication failures.": "Trop d'échecs d'authentification.",
    "Too many bad commands.": "Trop de commandes erronées.",
    "Too many commands before log-in.": "Trop de commandes avant la connexion.",
    "UTF8 enabled.": "UTF8 activé.",
    "UTF8 takes no argument.": "UTF8 ne prend pas d'argument.",
    "Unknown command.": "Commande inconnue.",
    "Unknown command: {shown}": "Commande inconnue : {shown}",
    "Unsupported authentication mechanism.": "Mécanisme d'authentification non disponible.",
    "User name or password has characters that are not allowed.": (
        "Le nom ou le mot de passe contient des caractères interdits."
    ),
    "{count} messages:": "{count} messages :",
    "{count} octets": "{count} octets",
}


@dataclass(frozen=True, slots=True)
class Language:
    """tag: RFC 5646. name: in the language itself. texts: by the English ones."""

    tag: str
    name: str
    texts: Mapping[str, str] = field(default_factory=dict)

    def say(self, text: str, **values: object) -> str:
        """`text` with its values; in English where there is no other."""
        return self.texts.get(text, text).format(**values) if values else self.texts.get(text, text)


ENGLISH = Language("en", "English")
FRENCH = Language("fr", "Français", _FRENCH)
LANGUAGES = (ENGLISH, FRENCH)


def language_of(tag: str) -> Language:
    """The one with this tag, else English."""
    return next((one for one in LANGUAGES if one.tag == tag), ENGLISH)


def find_language(asked: str) -> Language | None:
    """By LANG's language range: "*" is the server's own choice; of what the range says beyond a
    language that there is, as "fr-CA" does, nothing is lost to those who read (RFC 4647 §3.4)."""
    if asked == "*":
        return ENGLISH
    words = asked.lower().split("-")
    for count in range(len(words), 0, -1):
        tag = "-".join(words[:count])
        for language in LANGUAGES:
            if language.tag == tag:
                return language
    return None
