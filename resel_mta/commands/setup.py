"""resel-mta setup: what `dpkg-reconfigure postfix` asks, and root's address; a diff before writing."""

from __future__ import annotations

import argparse

from resel_mta.commands import cli

DESCRIPTION = "Ask."
EPILOG = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true")


def setup(options: argparse.Namespace) -> int:
    return cli.EX_OK
