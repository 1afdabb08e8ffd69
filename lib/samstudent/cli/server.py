"""Commands that need the app: start the server, or do one of its jobs in this process."""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from samstudent.errors import NotFound, Unavailable, UserError
from samstudent.server.pacs.state_folder import pacs_folder
from samstudent.task import load_task
from samstudent.util.address import is_pacs
from samstudent.util.files import atomic_write
from samstudent.util.places import require_free, require_study_writable, require_temporary_folder, require_writable
from samstudent.util.signals import end_now

if TYPE_CHECKING:
    from samstudent.rounds.ledger import Ledger
    from samstudent.server.app import SamstudentApp

HOST_PATH = Path("monailabel") / "sample-apps" / "samstudent"


@dataclass(frozen=True)
class Tls:
    """Files of a certificate, as the host hands them on."""

    certfile: Path | None = None
    keyfile: Path | None = None

    def options(self) -> list[str]:
        """The host's own options.

        Raises:
            UserError: only one of the two files is given. NotFound: one is not there.
        """
        if (self.certfile is None) != (self.keyfile is None):
            raise UserError("TLS needs both, --ssl-certfile and --ssl-keyfile")
        options = []
        for name, file in (("--ssl_certfile", self.certfile), ("--ssl_keyfile", self.keyfile)):
            if file is not None:
                if not file.is_file():
                    raise NotFound(f"{name} {file}: no such file")
                options += [name, str(file)]
        return options


def serve(
    studies: str,
    task: str,
    host: str,
    port: int,
    app_dir: Path | None,
    users: Path | None = None,
    tls: Tls | None = None,
) -> None:
    """Start the host's server with our app folder; does not return until the server ends."""
    conf_task = _task_argument(task)
    _where_app_lies(studies)
    require_temporary_folder()
    require_free(host, port)
    folder = _app_folder(studies, app_dir)
    if is_pacs(studies):
        typer.echo(f"labels, students and logs of this PACS: {folder.resolve()}")
    if users is not None:
        from samstudent.server.auth.users import Users

        Users(users).all()
        os.environ["SAMSTUDENT_USERS"] = str(users.resolve())
        os.environ["MONAI_LABEL_AUTH_ENABLE"] = "true"
    more = tls.options() if tls else []
    # A user's mistake was told above, before the imports, which take seconds.
    from monailabel.main import Main

    sys.argv = ["monailabel", "start_server", "--app", str(folder), "--studies", studies]
    sys.argv += ["--conf", "task", conf_task, "--host", host, "--port", str(port), *more]
    try:
        Main().run()
    except SystemExit as ended:
        if ended.code:
            # The port was taken in the meantime, for instance. Without a wait for the jobs that were begun.
            end_now(
                ended.code if isinstance(ended.code, int) else 1, "the server did not start; the lines above say why"
            )


def pseudo_label(studies: str, task: str) -> None:
    _show_progress()
    app = _app(studies, task)
    result = app.batch_infer({"model": "student+sam", "images": "unlabeled"})
    _send(app)
    for key, value in result.items():
        typer.echo(f"{key}: {value}")


def train(studies: str, task: str, pseudo_labels: str, steps: int | None, promote: bool) -> None:
    request: dict[str, Any] = {"model": "student", "pseudo_labels": pseudo_labels, "promote": promote}
    if steps is not None:
        request["steps"] = steps
    _show_progress()
    app = _app(studies, task)
    app.train(request)
    _send(app)
    list_rounds(studies, task)


def list_rounds(studies: str, task: str) -> None:
    ledger = _ledger(studies, task)
    champion = ledger.champion()
    table = Table("round", "status", "served", "labels", "pseudo", "left out", "Dice", "champion's", "started by")
    for r in ledger.rounds():
        dice = r.dice.get("challenger") or {}
        before = r.dice.get("champion") or {}
        table.add_row(
            r.id,
            r.status,
            "<-" if champion and champion.id == r.id else "",
            str(len(r.labels_used)),
            str(r.pseudo_used.n),
            str(len(r.unreadable) + len(r.not_compared) or ""),
            _percent(dice.get("mean")),
            _percent(before.get("mean")),
            r.error or r.reason,
        )
    Console().print(table)
    if any(r.unreadable or r.not_compared for r in ledger.rounds()):
        typer.echo("labels, pseudo: cases that trained. Why others were left out: samstudent rounds show ROUND")


def show_round(studies: str, task: str, round_id: str) -> None:
    record = _ledger(studies, task).get(round_id)
    typer.echo(f"{record.id}: {record.status}; started by: {record.reason or '-'}")
    typer.echo(f"trained on {len(record.labels_used)} human labels and {record.pseudo_used.n} pseudo labels")
    typer.echo(
        f"hold-out: {len(record.holdout_ids)} labelled cases, {len(record.not_compared)} of them not compared on"
    )
    for text in filter(None, (record.decision, record.error)):
        typer.echo(text)
    for what, cases in (("not trained on", record.unreadable), ("not compared on", record.not_compared)):
        for case, why in sorted(cases.items()):
            typer.echo(f"{what}: {case}: {why}")


def promote_round(studies: str, task: str, round_id: str) -> None:
    _ledger(studies, task).promote(round_id, who="command line")
    typer.echo(f"{round_id} is served now")


def roll_back(studies: str, task: str) -> None:
    typer.echo(f"{_ledger(studies, task).rollback(who='command line')} is served now")


def _show_progress() -> None:
    """The jobs tell in the log how far they are."""
    logging.getLogger("samstudent").setLevel(logging.INFO)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _ledger(studies: str, task: str) -> Ledger:
    folder, checked = str(_where_app_lies(studies)), load_task(task)
    from samstudent.rounds.study import Study

    return Study(studies, folder, checked).ledger


def _app(studies: str, task: str) -> SamstudentApp:
    folder = str(_app_folder(studies, None))  # what is wrong with the places is told before the imports
    from samstudent.server.app import SamstudentApp

    return SamstudentApp(app_dir=folder, studies=str(studies), conf={"task": _task_argument(task)})


def _send(app: SamstudentApp) -> None:
    """To the PACS with what the job has made, if the study is one; what is not sent, a server sends later."""
    if exchange := getattr(app.datastore(), "exchange", None):
        try:
            exchange.send()
        except Unavailable as error:
            typer.secho(f"not sent yet: {error}", fg="yellow", err=True)


def _task_argument(task: str) -> str:
    """The task as children of the server find it, too: a path is made absolute."""
    load_task(task)
    return str(Path(task).resolve()) if Path(task).is_file() else task


def _app_folder(studies: str, app_dir: Path | None) -> Path:
    """The app folder: the one given, else one inside the study folder, or the PACS's: a study keeps its own logs."""
    if app_dir is not None:
        if not (app_dir / "main.py").is_file():
            raise NotFound(f"--app {app_dir}: no main.py in it; apps/samstudent of the project is one")
        require_writable(app_dir, "the server keeps its log")
        if not is_pacs(studies):
            require_study_writable(Path(studies), app_dir)
        return app_dir
    folder = _where_app_lies(studies)
    if is_pacs(studies):
        require_writable(folder, "all that is learnt from the PACS is kept")
    else:
        require_study_writable(Path(studies), folder)
    atomic_write(folder / "main.py", (_shipped_app() / "main.py").read_bytes())
    return folder


def _where_app_lies(studies: str) -> Path:
    """Where ``_app_folder`` puts it; nothing is written."""
    if is_pacs(studies):
        return pacs_folder(studies)
    if not Path(studies).is_dir():
        link = ", but a symbolic link that leads nowhere, or back to itself" if Path(studies).is_symlink() else ""
        raise NotFound(f"--studies {studies}: no such folder{link}")
    return Path(studies) / ".samstudent" / "app"


def _shipped_app() -> Path:
    installed = Path(sysconfig.get_path("data")) / HOST_PATH
    checkout = Path(__file__).parents[3] / "apps" / "samstudent"
    return installed if (installed / "main.py").is_file() else checkout
