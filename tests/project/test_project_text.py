"""What no tracked file says, and what the repository's own documents must get right."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Written in pieces, so that this file does not hold them.
FORBIDDEN = {
    "a package registry's address": "|".join(("pypi" + r"\.org", "pythonhosted" + r"\.org")),
    "an index address": "--(extra-)?index" + "-url [a-z]",
    "a path of somebody's machine": "(?<![a-z])/wo" + "rk/|/ro" + r"ot/\.|/opt/py" + "pi",
    "unfinished work": r"\bTO" + r"DO\b|\bFIX" + r"ME\b|\bX" + r"XX\b",
}


def tracked() -> list[Path]:
    words = ["git", "ls-files", "-z"]
    listing = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_project_forbidden_words(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_text("utf-8", "replace").split("\n"), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found


def test_project_no_broad_exception_is_swallowed() -> None:
    pattern = re.compile(r"except(:| Exception| BaseException| OSError)[^\n]*\n\s+pass\n")
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix == ".py" and pattern.search(path.read_text())
    ]
    assert not found


def pinned(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


def test_project_requirements_hold_what_pyproject_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    names = {re.match(r"[\w.-]+", line)[0] for line in run}  # type: ignore[index]
    assert names <= set(pinned("run"))
    dev = {re.match(r"[\w.-]+", line)[0] for line in project["dependency-groups"]["dev"]}  # type: ignore[index]
    assert dev <= set(pinned("dev"))


def test_project_both_requirement_files_agree() -> None:
    dev = pinned("dev")
    assert {name: dev.get(name) for name in pinned("run")} == pinned("run")


def test_project_every_requirement_has_a_hash() -> None:
    for name in ("run", "dev"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        assert len(re.findall(r"==\S+ \\\n    --hash=sha256:", text)) == len(pinned(name))


def test_project_documents_link_to_what_exists() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_project_dependencies_are_explained() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = [re.match(r"[\w.-]+", line)[0] for line in groups]  # type: ignore[index]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_project_console_scripts_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for target in project["project"]["scripts"].values():
        module, _, function = target.partition(":")
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
        assert f"\ndef {function}(" in source
        # Also run as `python -m`, where scripts cannot be.
        assert '__name__ == "__main__"' in source
