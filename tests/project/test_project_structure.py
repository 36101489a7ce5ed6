"""The house rules that a reader relies on: imports point one way, files stay small."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the bottom up; docs/architecture.md says what each level is for. A room imports its own
# level's rooms only where the lists below say so, and those of the levels beneath.
VOCABULARY = {
    "content",
    "local_target",
    "mail",
    "wire",
    "disk",
    "maillog",
    "config",
    "users",
    "tls",
    "trace",
    "receiver",
}
SYSTEM = {"sockets", "privileges", "notify", "control"}
JOBS = {"intake", "routing", "smtpd", "queue", "pickup", "fixed_transports"}
DAEMON = {"composition", "daemon", "supervisor", "supervised", "verbs", "mail_verbs"} | {
    "rights",
    "helper_pool",
    "spawning",
    "public_queue",
    "main_composition",
    "resolving",
    "workers",
}
COMMANDS = {"commands"}
LEVELS = (VOCABULARY, SYSTEM, JOBS, DAEMON, COMMANDS)

# Single jobs that one job may import: the queue's door, and what intake is made of.
BETWEEN_JOBS = {"intake": {"routing", "queue"}}
# What the vocabulary's rooms may import of each other. No circle.
WITHIN_VOCABULARY = {
    "content": set(),
    "local_target": set(),
    "mail": {"content", "local_target"},
    "disk": set(),
    "maillog": set(),
    "wire": {"content", "mail"},
    "config": {"disk", "mail", "wire"},
    "users": {"config", "mail", "maillog"},
    "tls": {"config", "maillog"},
    "trace": {"content", "mail"},
    "receiver": {"content", "mail"},
}

LINES, FUNCTION_LINES = 400, 50
LONGER_FILES: dict[str, tuple[int, str]] = {}
LONGER_FUNCTIONS = {}


def python_files(*folders: str) -> list[Path]:
    words = ["git", "ls-files", *(f"{folder}/**.py" for folder in folders)]
    listing = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listing.split() if (ROOT / name).exists()]


PACKAGE_FILES = python_files("resel_mta", "resel_relay", "resel_lda")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(module: str) -> str:
    """ "mail" for resel_mta.mail and all below; the package's name for the two others."""
    parts = module.split(".")
    return parts[0] if parts[0] != "resel_mta" or len(parts) == 1 else parts[1]


def imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: imports are written in full"
            module = node.module or ""
            deeper = module == "resel_mta"
            modules = [f"{module}.{alias.name}" for alias in node.names] if deeper else [module]
        else:
            continue
        for module in modules:
            if module.startswith("resel_"):
                yield room_of(module)


def allowed(room: str) -> set[str]:
    if room in ("resel_relay", "resel_lda"):
        return VOCABULARY | {room}
    if room in VOCABULARY:
        return WITHIN_VOCABULARY[room] | {room}
    level = next(index for index, rooms in enumerate(LEVELS) if room in rooms)
    below = set().union(*LEVELS[:level])
    if room in JOBS:
        return below | {room} | BETWEEN_JOBS.get(room, set())
    if room in SYSTEM:
        return below | SYSTEM
    return below | LEVELS[level] | {"resel_relay", "resel_lda"}


def test_project_every_room_has_a_level() -> None:
    rooms = {room_of(name_of(path).removesuffix(".py").replace("/", ".")) for path in PACKAGE_FILES}
    assert rooms - set().union(*LEVELS) == {"resel_relay", "resel_lda", "__init__"}


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name_of)
def test_project_imports_point_one_way(path: Path) -> None:
    room = room_of(name_of(path).removesuffix(".py").replace("/", "."))
    if room == "__init__":
        assert not list(imported_rooms(path))
        return
    wrong = {
        other for other in imported_rooms(path) if other not in allowed(room) | {"__version__"}
    }
    assert not wrong, f"{room} must not import {', '.join(sorted(wrong))}"


def test_project_roles_are_only_data() -> None:
    """No code outside the configuration asks what role it is."""
    found = []
    for path in PACKAGE_FILES:
        if name_of(path).startswith("resel_mta/config/"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            # "relay" is a Transport's name too; the other two name nothing else.
            if node.value in ("smarthost", "server"):
                found.append(f"{name_of(path)}:{node.lineno}")
    assert not found
    compared = [
        f"{name_of(path)}:{node.lineno}"
        for path in PACKAGE_FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        and "role" in ast.unparse(node)
        and "relay" in ast.unparse(node)
    ]
    assert not compared


@pytest.mark.parametrize("path", [*PACKAGE_FILES, *python_files("demo", "benchmarks")], ids=name_of)
def test_project_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    limit, _ = LONGER_FILES.get(name_of(path), (LINES, ""))
    assert text.count("\n") <= limit
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            key = f"{name_of(path)}:{node.name}"
            limit, _ = LONGER_FUNCTIONS.get(key, (FUNCTION_LINES, ""))
            assert length <= limit, f"{key} has {length} lines"


def test_project_exceptions_to_the_limits_are_needed() -> None:
    for name in LONGER_FILES:
        assert (ROOT / name).read_text().count("\n") > LINES, f"{name} is small enough now"
    for key in LONGER_FUNCTIONS:
        name, _, function = key.partition(":")
        lengths = [
            (node.end_lineno or 0) - node.lineno + 1
            for node in ast.walk(ast.parse((ROOT / name).read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function
        ]
        assert max(lengths) > FUNCTION_LINES, f"{key} is small enough now"
