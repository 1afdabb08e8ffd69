"""Start of the host with current versions of its dependencies, also in child processes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from samstudent.server import bootstrap

LIB = Path(bootstrap.__file__).parents[2]
OURS = ["--uvicorn_app", bootstrap.HTTP_APPLICATION]


def python(code: str, *options: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that imports our package from lib, as with an installed .pth file."""
    return subprocess.run(
        [sys.executable, *options, "-c", f"import sys; sys.path.insert(0, {str(LIB)!r})\n{code}"],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


def test_host_imports_with_current_pydicom() -> None:
    done = python("import samstudent.server.bootstrap, monailabel.interfaces.app, pydicom_seg")
    assert done.returncode == 0, done.stderr


def test_e1_pydicom_seg_cannot_be_imported_without_the_finder() -> None:
    done = python(
        "import samstudent.server.bootstrap as s\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, s._MovedUids)]\n"
        "import pydicom_seg"
    )
    assert "pydicom._storage_sopclass_uids" in done.stderr, (
        "pydicom-seg imports without help: drop _MovedUids from server/bootstrap.py and E1 from docs/reference/host.md"
    )


def test_finder_supplies_the_uids_of_pydicom() -> None:
    from pydicom import _storage_sopclass_uids as uids  # type: ignore[attr-defined]

    assert uids.SegmentationStorage == "1.2.840.10008.5.1.4.1.1.66.4"
    with pytest.raises(AttributeError):
        _ = uids.NoSuchStorage


def test_finder_supplies_no_other_module() -> None:
    assert importlib.util.find_spec("pydicom._no_such_module") is None


def test_starting_python_loads_nothing_heavy() -> None:
    done = python("import samstudent.server.bootstrap; print(sorted({m.split('.')[0] for m in sys.modules}))", "-S")
    assert done.returncode == 0, done.stderr
    for heavy in ("torch", "numpy", "pydicom", "monai", "monailabel", "pathlib", "argparse"):
        assert f"'{heavy}'" not in done.stdout


@pytest.fixture
def our_app(tmp_path: Path) -> Path:
    app = tmp_path / "ours"
    app.mkdir()
    (app / "main.py").write_text("from samstudent.server.app import SamstudentApp\n")
    return app


@pytest.mark.parametrize("given", [[], ["-p", "8123"], ["--conf", "host", "0.0.0.0"]])
def test_our_app_listens_on_loopback(our_app: Path, given: list[str]) -> None:
    arguments = ["start_server", "--app", str(our_app), "--studies", "x", *given]
    assert bootstrap.with_defaults(arguments) == [*arguments, "--host", "127.0.0.1", *OURS]


@pytest.mark.parametrize("given", [["--host", "0.0.0.0"], ["-i", "10.0.0.1"], ["--host=::1"]])
def test_explicit_host_is_kept(our_app: Path, given: list[str]) -> None:
    arguments = ["start_server", "--app", str(our_app), *given]
    assert bootstrap.with_defaults(arguments) == [*arguments, *OURS]
    assert bootstrap.with_defaults([*arguments, "--uvicorn_app", "x:y"]) == [*arguments, "--uvicorn_app", "x:y"]


def test_other_apps_and_commands_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("class Other: ...\n")
    for arguments in (
        ["start_server", "--app", str(tmp_path)],
        ["start_server", "--app", str(tmp_path / "missing")],
        ["start_server", "--app"],
        ["apps", "--name", "radiology"],
        [],
    ):
        assert bootstrap.with_defaults(arguments) == arguments


def test_command_of_the_host_has_the_defaults(our_app: Path, tmp_path: Path) -> None:
    code = (
        "import samstudent.server.bootstrap, runpy\n"
        f"sys.argv[1:] = ['start_server', '--app', {str(our_app)!r}, '--studies', {str(tmp_path)!r}, '--dryrun']\n"
        "runpy.run_module('monailabel.main', run_name='__main__')"
    )
    done = python(code, cwd=tmp_path)
    assert "USING:: host = 127.0.0.1" in done.stdout + done.stderr
    assert f"USING:: uvicorn_app = {bootstrap.HTTP_APPLICATION}" in done.stdout + done.stderr


def test_e10_host_still_listens_everywhere_by_default() -> None:
    from monailabel.main import Main

    default = Main().args_parser().parse_args(["start_server"]).host
    assert default == "0.0.0.0", "the host defaults to loopback itself: drop _HostArguments"


# ---- E3 ----


@pytest.mark.parametrize(("uri", "enabled"), [("", "False"), ("sqlite:///runs.db", "True")])
def test_e3_tracking_is_off_unless_a_store_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, enabled: str
) -> None:
    monkeypatch.delenv("MONAI_LABEL_TRACKING_ENABLED", raising=False)
    monkeypatch.setenv("MONAI_LABEL_TRACKING_URI", uri)
    code = "import samstudent.server.bootstrap, monailabel.config as c; print(c.settings.MONAI_LABEL_TRACKING_ENABLED)"
    done = python(code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1:] == [enabled], done.stderr


def test_e3_mlflow_rejects_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(Exception, match="file"):
        mlflow.MlflowClient(tmp_path.as_uri()).search_experiments()
