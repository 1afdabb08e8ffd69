"""App folder, in which the host finds our app, and the host's arguments for task and study."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from samstudent.errors import NotFound
from samstudent.server.pacs.state_folder import pacs_folder
from samstudent.task import load_task
from samstudent.util.address import is_pacs
from samstudent.util.files import atomic_write
from samstudent.util.places import require_study_writable, require_writable

HOST_PATH = Path("monailabel") / "sample-apps" / "samstudent"


def task_argument(task: str) -> str:
    """Name of the task, or absolute path of its file, for the processes of the server."""
    load_task(task)
    return str(Path(task).resolve()) if Path(task).is_file() else task


def app_folder(studies: str, app_dir: Path | None) -> Path:
    """App folder: ``app_dir``, else one in the study folder or the PACS's; each study has its own logs."""
    if app_dir is not None:
        if not (app_dir / "main.py").is_file():
            raise NotFound(f"--app {app_dir}: no main.py in it; apps/samstudent of the project is one")
        require_writable(app_dir, "the server keeps its log")
        if not is_pacs(studies):
            require_study_writable(Path(studies), app_dir)
        return app_dir
    folder = app_folder_path(studies)
    if is_pacs(studies):
        require_writable(folder, "labels, models and logs of the PACS are kept")
    else:
        require_study_writable(Path(studies), folder)
    atomic_write(folder / "main.py", (_shipped_app() / "main.py").read_bytes())
    return folder


def app_folder_path(studies: str) -> Path:
    """Path of the app folder of a study, without making it."""
    if is_pacs(studies):
        return pacs_folder(studies)
    if not Path(studies).is_dir():
        link = ", but a broken or circular symbolic link" if Path(studies).is_symlink() else ""
        raise NotFound(f"--studies {studies}: no such folder{link}")
    return Path(studies) / ".samstudent" / "app"


def _shipped_app() -> Path:
    installed = Path(sysconfig.get_path("data")) / HOST_PATH
    checkout = Path(__file__).parents[3] / "apps" / "samstudent"
    return installed if (installed / "main.py").is_file() else checkout
