"""The direction of imports that docs/explanation/architecture.md promises."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import samstudent

PACKAGE = Path(samstudent.__file__).parent
#: Everything but these is the pure core.
ADAPTERS = (
    "serving",
    "student",
    "demo",
    "cli.py",
    "cli_users.py",
    "commands.py",
    "configs",
    "evaluation/experiment",
    "evaluation/simulate",
)
#: The host's tasks, and what the trainer gathers from a study for a round.
HOST_SIDE = ("infer.py", "trainer.py", "batch.py", "round_cases.py")


def imported(path: Path) -> set[str]:
    """Absolute names of all that a module imports, wherever it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def core() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if not p.relative_to(PACKAGE).as_posix().startswith(ADAPTERS)]


def test_there_is_a_core() -> None:
    assert len(core()) > 25


@pytest.mark.parametrize("path", core(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_core_knows_neither_host_nor_adapters(path: Path) -> None:
    forbidden = ("monailabel", "samstudent.serving", "samstudent.student", "samstudent.demo")
    assert not [name for name in imported(path) if name.startswith(forbidden)]


@pytest.mark.parametrize("path", sorted((PACKAGE / "student").glob("*.py")), ids=lambda path: path.name)
def test_only_the_hosts_side_of_the_student_knows_the_host(path: Path) -> None:
    known = [name for name in imported(path) if name.startswith(("monailabel", "samstudent.serving"))]
    assert not known or path.name in HOST_SIDE
