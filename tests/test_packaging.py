"""Files of `pip install .`; only where samstudent is installed, as by `make test`."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def files() -> list[str]:
    """All installed files of the distribution."""
    try:
        found = importlib.metadata.distribution("samstudent").files
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("samstudent runs from the source tree here, it is not installed")
    return [str(path) for path in found or []]


def test_every_file_of_the_package_is_installed(files: list[str]) -> None:
    """A new package must be named in setup.cfg, and so must files that are no modules."""
    lib = Path(__file__).resolve().parents[1] / "lib"
    there = [path.relative_to(lib).as_posix() for path in (lib / "samstudent").rglob("*") if path.is_file()]
    assert not {path for path in there if "__pycache__" not in path} - set(files)


def test_task_files_and_templates_are_installed(files: list[str]) -> None:
    for needed in (
        "samstudent/configs/wrist.yaml",
        "samstudent/research/templates/page.html",
        "samstudent/server/review_page/static/index.html",
        "samstudent/py.typed",
    ):
        assert needed in files


def test_start_up_file_is_installed(files: list[str]) -> None:
    assert "samstudent-host.pth" in files


def test_app_folder_is_found_by_the_host(files: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monailabel.main", "apps", "--name", "samstudent", "--download"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "samstudent" / "main.py").is_file()


def test_shipped_task_is_found_by_name(files: list[str], tmp_path: Path) -> None:
    code = "from samstudent.task import load_task; print(len(load_task('wrist').structures))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "17"
