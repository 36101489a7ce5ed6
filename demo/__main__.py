"""`make demo`: one mail through three daemons, each hop shown. Exit code 0 only if all of it happened."""

from __future__ import annotations

import imaplib
import signal
import smtplib
import subprocess
import sys
import time
from types import FrameType

from demo.launcher import LaunchError
from demo.machines import MachineError
from demo.network import Network
from demo.story import StepFailed, Story

TIME_LIMIT = 90
LOG_LINES_SHOWN = 15


class GivenUp(BaseException):
    """A signal, or the time limit. Not an Exception, so that no step takes it for its own."""


def main() -> int:
    """Tell the story; the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _give_up)
    signal.alarm(TIME_LIMIT)
    started = time.monotonic()
    try:
        with Network() as network:
            code = _tell(Story(network, sys.stdout.isatty()))
    except GivenUp as error:
        print(f"\n{error}: everything is stopped and removed.", file=sys.stderr)
        return 130
    except (LaunchError, OSError) as error:
        print(f"The demo cannot run here: {error}", file=sys.stderr)
        return 1
    if code == 0:
        print(
            f"\nAll of it happened, in {time.monotonic() - started:.0f} s. Nothing is left behind."
        )
    return code


def _tell(story: Story) -> int:
    try:
        story.tell()
    except (StepFailed, MachineError) as error:
        return _failed(story, str(error), error.log)
    except subprocess.TimeoutExpired as error:
        return _failed(story, f"{error.cmd[0]} did not end in {error.timeout:.0f} s", [])
    except (OSError, smtplib.SMTPException, imaplib.IMAP4.error) as error:
        return _failed(story, str(error) or type(error).__name__, [])
    return 0


def _failed(story: Story, text: str, log: list[str]) -> int:
    """Say which step failed and why, with the end of the log or of all logs."""
    print(f"\nFAILED at step '{story.step}': {text}", file=sys.stderr)
    logs = {"the log": log} if log else {m.name: m.log() for m in story.network.machines}
    for name, lines in logs.items():
        print(f"The last lines of {name}:", file=sys.stderr)
        for line in lines[-LOG_LINES_SHOWN:]:
            print(f"  | {line}", file=sys.stderr)
    return 1


def _give_up(number: int, frame: FrameType | None) -> None:
    """The first signal ends the story; none may cut short the cleaning up."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(other, signal.SIG_IGN)
    raise GivenUp("Too slow" if number == signal.SIGALRM else "Interrupted")


if __name__ == "__main__":
    sys.exit(main())
