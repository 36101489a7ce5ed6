"""What ``resel-adm COMMAND --help`` says beside the command's own line."""

from __future__ import annotations

from resel_mta.commands.adm_options import Command

_WHOSE = """\
-u USER   whose mail: a name, or a mask with * and ?; without it the caller's
-A        of all users"""
_QUERY = """\
The query is doveadm's (doveadm-search-query(7)), such as: mailbox INBOX unseen from lcarr.
"""
_FLAGS = (
    "of what the query finds; flags: one word, as '\\Seen $Label1', keywords without a backslash.\n"
)

_ABOUT = {
    "auth lookup": "Whether the passdb knows the users.\n\n-f FIELD   that field alone\n",
    "auth test": "Whether the user gets in by the password, which is asked for where it is not given.\n"
    "Exit status 77 if not.\n",
    "copy": "Copies what the query finds, of `source user` where one is named, to a folder.\n",
    "expunge": "Removes what the query finds, which has to name the folder. It is kept for\n"
    "expunge_keep_time: see undelete.\n\n"
    "-d        the folder too, if nothing is left in it\n--purge   nothing is kept\n",
    "fetch": "Prints fields of what the query finds; fields: one word, as 'uid hdr.subject'. A field\n"
    "that is not there makes it list all.\n",
    "flags add": f"Adds flags {_FLAGS}",
    "flags remove": f"Removes flags {_FLAGS}",
    "flags replace": f"Sets the flags {_FLAGS}",
    "force-resync": "Looks at the folders' files again.\n",
    "import": "Copies what the query finds in another store (maildir:PATH) to folders below\n"
    '`dest parent mailbox`, "" for the same ones.\n\n-s        subscribes to them\n',
    "index": "Looks at the folders' files, so that the next client need not.\n",
    "kick": "Ends the sessions of a user, or from an address.\n",
    "mailbox create": "Makes folders.\n\n-s        subscribes to them\n",
    "mailbox delete": "Removes folders. Their messages are kept for expunge_keep_time: see undelete.\n\n"
    "-e        only empty ones\n-r        those below them too\n-s        ends subscriptions to them\n",
    "mailbox list": "The folders.\n\n-7, -8    names in modified UTF-7, in UTF-8\n"
    "-s        those subscribed to\n",
    "mailbox mutf7": "Folders' names in modified UTF-7.\n\n-7, -8    what is given: UTF-7, UTF-8\n",
    "mailbox path": "The folders' directories.\n\n-t TYPE   mailbox, index, control\n",
    "mailbox rename": "Renames a folder and those below it.\n\n-s        subscriptions too\n",
    "mailbox status": "Figures of folders (masks too); fields, one word: messages recent uidnext\n"
    "uidvalidity unseen highestmodseq vsize guid firstsaved, all, and kept, keptsize: what can be\n"
    "undeleted.\n\n-t        sums\n",
    "mailbox subscribe": "Subscribes to folders, whether they are there or not.\n",
    "mailbox unsubscribe": "Ends subscriptions.\n",
    "move": "Moves what the query finds, of `source user` where one is named, to a folder.\n",
    "purge": "Frees what is kept of expunged mail now.\n",
    "pw": "What stands for a password in the users' file. It is asked for without -p.\n\n"
    "-l             the schemes\n-s SCHEME      one of them\n-p PLAINTEXT   the password\n"
    "-r ROUNDS      how slow\n-t HASH        whether the password is the one of this hash\n"
    "-u USER        accepted\n-V             tries what was made\n",
    "quota get": "How much is used, in KiB and messages, and of how much.\n",
    "quota recalc": "Counts again, into maildirsize.\n",
    "reload": "As resel-mta reload.\n",
    "save": "Puts a message (of a file, or standard input) into a folder, INBOX without -m.\n",
    "search": "The folder's GUID and the UID of each message that the query finds.\n",
    "stop": "As resel-mta stop.\n",
    "undelete": "Brings expunged messages back to their folders, with flags and a new UID. The query\n"
    "is asked of what was expunged: mailbox is where it was, saved... when it was expunged.\n\n"
    "-l        only shows them\n",
    "user": "What the userdb says of users; with a mask (* and ?) the names that match.\n\n"
    "-f FIELD  that field alone\n-u        without what the configuration adds\n",
    "who": "Who is logged in, by mask and by address.\n\n-1        a line for each session\n",
}


def text_of(command: Command) -> str:
    """All of it, with the end of the last line."""
    parts = [f"usage: {command.line}\n", _ABOUT[command.name]]
    if "<search query>" in command.usage:
        parts.append(_QUERY)
    if "[-u <user>|-A]" in command.usage:
        parts.append(f"{_WHOSE}\n")
    return "\n".join(parts)
