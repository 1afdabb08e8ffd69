"""``samstudent users``: management of the users file of a server.

Function-level imports of ``Users``: its password hashes would slow down the start of the command line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from samstudent.errors import UserError

users_app = typer.Typer(no_args_is_help=True, help="Users file of samstudent serve --users: names, roles, passwords.")

Name = Annotated[str, typer.Argument(help="Login name.")]
UsersFile = Annotated[Path, typer.Option("--users", envvar="SAMSTUDENT_USERS", help="Users file.")]
Stdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from the standard input.")]
Role = Annotated[str, typer.Option("--role", help="annotator, reviewer or admin; each includes the roles before it.")]


@users_app.command("add")
def add(name: Name, users: UsersFile, role: Role = "annotator", password_stdin: Stdin = False) -> None:
    """Add a user; creates the file if there is none."""
    from samstudent.server.auth.users import Users

    Users(users).add(name, role, _password(password_stdin))
    typer.echo(f"{name}: added with role {role}")


@users_app.command("remove")
def remove(name: Name, users: UsersFile) -> None:
    """Remove a user and end the user's sessions."""
    from samstudent.server.auth.users import Users

    Users(users).remove(name)
    typer.echo(f"{name}: removed")


@users_app.command("passwd")
def passwd(name: Name, users: UsersFile, password_stdin: Stdin = False) -> None:
    """Change the password of a user and end the user's sessions."""
    from samstudent.server.auth.users import Users

    Users(users).set_password(name, _password(password_stdin))
    typer.echo(f"{name}: password changed")


@users_app.command("role")
def role(
    name: Name, role: Annotated[str, typer.Argument(help="annotator, reviewer or admin.")], users: UsersFile
) -> None:
    """Change the role of a user and end the user's sessions."""
    from samstudent.server.auth.users import Users

    Users(users).set_role(name, role)
    typer.echo(f"{name}: role {role}")


@users_app.command("list")
def list_users(users: UsersFile) -> None:
    """List all users and their roles."""
    from samstudent.server.auth.users import Users

    for name, entry in sorted(Users(users).all().items()):
        typer.echo(f"{name:24} {entry.role}")


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise UserError("no terminal for the password prompt; use --password-stdin")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
