"""`make bench`: resel-mta beside the real Postfix on this machine.

make bench                          the main case, three pairs
make bench BENCH_ARGS="--all"       all cases
make bench BENCH_ARGS="--workers 1 --workers 2"    one process beside two
make bench BENCH_ARGS="--imap"      mailboxes beside the real Dovecot
make bench BENCH_ARGS="--syncs"     how often each syncs, in all cases
make bench BENCH_ARGS="--profile"   where the CPU time of one message goes
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import imap_report, relay, report, stages
from benchmarks.load import BenchmarkError
from benchmarks.servers import BareServer, PostfixServer, ReselServer
from demo.launcher import CHECKOUT, LaunchError
from demo.machines import MachineError


def main() -> int:
    """Measure, print, write; the exit code."""
    options = parse()
    # So that the servers are stopped then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    if options.imap:
        return imap_report.compare(options)
    if os.geteuid() == 0 and not shutil.which("postfix", path="/usr/sbin"):
        install_postfix()
    if not shutil.which("smtp-source", path="/usr/sbin:/usr/bin"):
        print("Skipped: smtp-source and smtp-sink are missing. Install them: apt install postfix")
        return 0
    if options.profile:
        return profile(options)
    with_postfix = os.geteuid() == 0 and "postfix" not in options.without
    if os.geteuid() != 0:
        print("Postfix is not measured: its master needs root. Only resel-mta's figures follow.")
    kinds = chosen(options, with_postfix)
    try:
        results = measure(options, kinds)
    except (BenchmarkError, MachineError, LaunchError, subprocess.TimeoutExpired, OSError) as error:
        print(f"The benchmark failed: {error}", file=sys.stderr)
        for line in getattr(error, "log", [])[-15:]:
            print(f"  | {line}", file=sys.stderr)
        return 1
    if not results:
        return 0
    print()
    print(report.table(results))
    for path in report.write(results, CHECKOUT / "benchmarks" / "results"):
        print(f"Written: {path.relative_to(CHECKOUT)}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="resel-mta beside Postfix")
    parser.add_argument("--all", action="store_true", help="the extra cases too")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--pairs", type=int, default=3, help="measurements of each (3)")
    parser.add_argument("--messages", type=int, default=0, help="per measurement")
    parser.add_argument(
        "--workers",
        type=int,
        action="append",
        help="worker_processes of resel-mta; given twice, both are measured",
    )
    parser.add_argument("--imap", action="store_true", help="IMAP beside Dovecot instead")
    parser.add_argument("--profile", action="store_true", help="CPU time of one message, by stage")
    parser.add_argument(
        "--syncs", action="store_true", help="count the syncs of a message, by strace"
    )
    parser.add_argument("--octets", type=int, default=6000, help="of each message, with --imap")
    parser.add_argument("--directory", default="/var/tmp", help="where the queues lie; a real disk")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=["postfix", "dovecot", "resel-mta", "bare"],
        help="leave out",
    )
    return parser.parse_args()


def profile(options: argparse.Namespace) -> int:
    """Where the time goes; the exit code."""
    count = options.messages or 6000
    try:
        with tempfile.TemporaryDirectory(prefix="resel-bench-", dir=options.directory) as name:
            directory = Path(name)
            directory.chmod(0o755)
            found = stages.measure(directory, count)
    except (BenchmarkError, MachineError, LaunchError, OSError) as error:
        print(f"The benchmark failed: {error}", file=sys.stderr)
        return 1
    print(stages.table(found))
    path = report.write_picture(
        "profile", stages.picture_of(found), CHECKOUT / "benchmarks/results"
    )
    print(f"Written: {path.relative_to(CHECKOUT)}")
    return 0


def chosen(options: argparse.Namespace, with_postfix: bool) -> list[relay.Kind]:
    """What is measured. The bare loop goes last: it writes as much as ours did before."""
    kinds: list[relay.Kind] = [PostfixServer] if with_postfix else []
    if "resel-mta" not in options.without:
        kinds += [partial(ReselServer, workers=n) for n in options.workers or (None,)]
    if "bare" not in options.without:
        kinds.append(BareServer)
    return kinds


def measure(options: argparse.Namespace, kinds: Sequence[relay.Kind]) -> list[relay.Result]:
    """The results of the cases asked for; none with --syncs, which only prints."""
    if filesystem(options.directory) in ("tmpfs", "ramfs"):
        raise BenchmarkError(f"{options.directory} is not on a disk; choose with --directory")
    every = options.all or options.case or options.syncs
    cases = [relay.MAIN_CASE, *(relay.EXTRA_CASES if every else ())]
    cases = [case for case in cases if options.case in case.name]
    if options.messages:
        cases = [dataclasses.replace(case, messages=options.messages) for case in cases]
    with tempfile.TemporaryDirectory(prefix="resel-bench-", dir=options.directory) as name:
        directory = Path(name)
        directory.chmod(0o755)
        with relay.contenders(directory, kinds) as rivals:
            if options.syncs:
                relay.count_syncs(cases, options.messages or 1000, rivals, print)
                return []
            return [relay.run_case(case, options.pairs, rivals, print) for case in cases]


def filesystem(directory: str) -> str:
    """The type of the file system that a directory lies on."""
    words = ["stat", "--file-system", "--format=%T", directory]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def install_postfix() -> None:
    """By apt, without starting it. Raises nothing: what is missing is said later."""
    print("Installing Postfix, to measure against")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    words = ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", "postfix"]
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, timeout=600, check=False)
    finally:
        if ours:
            policy.unlink()


if __name__ == "__main__":
    sys.exit(main())
