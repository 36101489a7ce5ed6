"""``resel-adm mailbox mutf7``, ``reload``, ``stop``: what needs no mailbox."""

from __future__ import annotations

from resel_lda.imap import utf7
from resel_mta.commands import cli
from resel_mta.commands.adm_options import Command, Context, Options, Run, fail
from resel_mta.control import ControlClient, ControlError, NotRunning, control_path


def _mutf7(context: Context, options: Options) -> int:
    """To modified UTF-7, or (-7) from it."""
    for name in options.words:
        try:
            from_mutf7 = "7" in options.letters
            print(utf7.decode(name.encode()) if from_mutf7 else utf7.encode(name).decode("ascii"))
        except ValueError:
            return fail(f"Error: Mailbox name not valid mUTF-7: {name}", cli.EX_TEMPFAIL)
    return cli.EX_OK


def _ask(verb: str) -> Run:
    def run(context: Context, options: Options) -> int:
        client = ControlClient(control_path(context.settings.text("data_directory")))
        try:
            for _ in client.call(verb):
                continue
        except NotRunning:
            return fail("Fatal: the mail system is not running", cli.EX_TEMPFAIL)
        except ControlError as error:
            raise cli.Failure(error.exit_code, error.text) from None
        return cli.EX_OK

    return run


COMMANDS = (
    Command("mailbox mutf7", "[-7|-8] <name> [...]", "78", _mutf7, least=1),
    Command("reload", "", "", _ask("daemon.reload"), most=0),
    Command("stop", "", "", _ask("daemon.stop"), most=0),
)
