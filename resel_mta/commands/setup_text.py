"""What `resel-mta setup` says and asks, in English and French."""

from __future__ import annotations

from resel_mta.commands.language import Text

START: dict[str, Text] = {
    "own": ("Starting from {path}.", "À partir de {path}."),
    "postfix": (
        "Starting from Postfix's {path}; that file stays as it is.",
        "À partir de {path} de Postfix ; ce fichier reste tel quel.",
    ),
    "shipped": (
        "Starting from the example for this kind of machine.",
        "À partir de l'exemple pour ce genre de machine.",
    ),
}
KIND: Text = ("What kind of machine is this?", "De quel genre de machine s'agit-il ?")
MAILNAME: Text = (
    "System mail name (what a bare name such as root is completed with)",
    "Nom de courrier du système (ce qui complète un nom seul comme root)",
)
RELAYHOST: Text = (
    "Relay host ([name]: this host itself; name: its MX; - for none)",
    "Relais ([nom] : cet hôte même ; nom : son MX ; - pour aucun)",
)
ROOT: Text = (
    "Address that gets root's mail (- leaves the aliases alone)",
    "Adresse qui reçoit le courrier de root (- ne touche pas aux alias)",
)
CHOICE: Text = ("Number or name", "Numéro ou nom")
NO_CHOICE: Text = ("That is not one of them.", "Ce n'est pas l'un d'eux.")
WRITE: Text = ("Write this? [Y/n]", "Écrire ceci ? [O/n]")
YES: Text = ("y yes", "o oui y yes")
NOTHING: Text = ("Nothing to change.", "Rien à changer.")
NOT_WRITTEN: Text = ("Nothing was written.", "Rien n'a été écrit.")
WRITTEN: Text = ("written: {path}", "écrit : {path}")
ALIASES: Text = ("the aliases are live", "les alias sont actifs")
GOOD: Text = ("{path}: role {role}, no errors", "{path} : rôle {role}, aucune erreur")
NOT_LOCAL: Text = (
    "note: mail for root goes to root@{origin} by the next hop, and its alias does not count:\n"
    "  {origin} is not in mydestination (resel-mta explain root)",
    "note : le courrier de root va à root@{origin} par le relais, et son alias ne compte pas :\n"
    "  {origin} n'est pas dans mydestination (resel-mta explain root)",
)
BAD: Text = (
    "To be mended before a start or reload (resel-conf -e, -#):",
    "À corriger avant un démarrage ou un reload (resel-conf -e, -#) :",
)
RELOAD: Text = (
    "The daemon runs (pid {pid}): resel-mta reload makes it take this.",
    "Le démon tourne (pid {pid}) : resel-mta reload le lui fait prendre.",
)
RESTART: Text = (
    "The daemon runs as role {role} (pid {pid}): the new role counts from a restart.",
    "Le démon tourne avec le rôle {role} (pid {pid}) : le nouveau compte après un redémarrage.",
)
BEGIN: Text = (
    "Next: systemctl enable --now resel-mta (after systemctl disable --now postfix, where it runs)",
    "Ensuite : systemctl enable --now resel-mta (après systemctl disable --now postfix, s'il tourne)",
)
