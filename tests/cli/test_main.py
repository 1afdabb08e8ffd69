"""Imports of the command line: a command that only reads files starts without torch, MONAI and the host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from samstudent.server.auth.users import Users

CODE = """
import sys
from samstudent.cli import main
sys.argv = ["samstudent", *sys.argv[1:]]
try:
    main.main()
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *sorted({"torch", "monai", "monailabel", "fastapi", "numpy"} & set(sys.modules)))
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "task.yaml").write_text("name: disk\ndimension: 2\nstructures: [disk]\n")
    Users(tmp_path / "users.json").add("ann", "annotator", "a long password")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "version",
        "serve --help",
        "predict --help",
        "evaluate --help",
        "reproduce wrist --help",
        "rounds list --studies . --task task.yaml",
        "rounds list --studies . --task task.yaml --json",
        "users list --users users.json",
        "doctor",
    ],
)
def test_commands_do_not_import_unused_packages(study: Path, command: str) -> None:
    arguments = [sys.executable, "-c", CODE, *command.split()]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False, cwd=study)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].rstrip() == "imported:"
