"""``samstudent serve``: the MONAI Label server with our app."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from samstudent.cli.app_folder import app_folder, app_folder_path, task_argument
from samstudent.cli.options import Studies, TaskOption
from samstudent.errors import NotFound, UserError
from samstudent.util.address import is_pacs
from samstudent.util.places import require_free, require_temporary_folder
from samstudent.util.signals import end_now

#: One or more parts of a path, none of which is ``.`` or ``..``.
_ROOT_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")


@dataclass(frozen=True)
class Tls:
    """Files of a TLS certificate."""

    certfile: Path | None = None
    keyfile: Path | None = None

    def options(self) -> list[str]:
        """Options of the host's command line.

        Raises:
            UserError: only one of the two files is set. NotFound: a file does not exist.
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


def checked_root_path(value: str) -> str:
    """Path of the server behind a proxy, without a slash at its end; "" for the root of a host.

    Raises:
        UserError: it does not begin with a slash, or has other characters than letters, digits and ``- . _ ~``.
    """
    path = value.rstrip("/")
    if path and not _ROOT_PATH.fullmatch(path):
        raise UserError(f"--root-path {value!r}: must be a path such as /wrist, of letters, digits and - . _ ~")
    return path


def serve(
    studies: Studies,
    task: TaskOption,
    host: Annotated[str, typer.Option(help="Address to listen on; default: this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    app_dir: Annotated[Path | None, typer.Option("--app", help="App folder; default: in the study folder.")] = None,
    users: Annotated[
        Path | None,
        typer.Option(envvar="SAMSTUDENT_USERS", help="Users file (see samstudent users); requires a login."),
    ] = None,
    certfile: Annotated[
        Path | None, typer.Option("--ssl-certfile", "--ssl_certfile", help="TLS: certificate, with its chain (PEM).")
    ] = None,
    keyfile: Annotated[
        Path | None, typer.Option("--ssl-keyfile", "--ssl_keyfile", help="TLS: the certificate's key (PEM).")
    ] = None,
    root_path: Annotated[
        str, typer.Option("--root-path", "--root_path", help="Path of the server behind a reverse proxy, e.g. /wrist.")
    ] = "",
) -> None:
    """Start a MONAI Label server with the samstudent app."""
    conf_task, root = task_argument(task), checked_root_path(root_path)
    app_folder_path(studies)
    require_temporary_folder()
    require_free(host, port)
    folder = app_folder(studies, app_dir)
    if is_pacs(studies):
        typer.echo(f"labels, students and logs of this PACS: {folder.resolve()}")
    if users is not None:
        # Here, not above: password hashes are needed only with a login.
        from samstudent.server.auth.users import Users

        Users(users).all()
        os.environ["SAMSTUDENT_USERS"] = str(users.resolve())
        os.environ["MONAI_LABEL_AUTH_ENABLE"] = "true"
    more = Tls(certfile, keyfile).options()
    # Here, not above: the host takes seconds, and errors of the arguments are reported before.
    from monailabel.main import Main

    from samstudent.server.bootstrap import HTTP_APPLICATION

    sys.argv = ["monailabel", "start_server", "--app", str(folder), "--studies", studies]
    sys.argv += ["--conf", "task", conf_task, "--host", host, "--port", str(port), *more]
    sys.argv += ["--uvicorn_app", HTTP_APPLICATION]
    if root:
        sys.argv += ["--root_path", root]
    try:
        Main().run()
    except SystemExit as ended:
        if ended.code:
            # E.g. the port was taken in the meantime. The process does not wait for jobs that were started.
            end_now(ended.code if isinstance(ended.code, int) else 1, "the server did not start; see the lines above")
