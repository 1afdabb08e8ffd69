"""The users file, its command and the throttle, without a server."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from samstudent.cli.main import app
from samstudent.errors import Conflict, NotFound, UserError
from samstudent.server.auth import users as users_module
from samstudent.server.auth.login_sessions import InvalidToken, LoginSessions
from samstudent.server.auth.logins import FileLogin
from samstudent.server.auth.throttle import MOST_OF_A_NAME, MOST_OF_AN_ADDRESS, WINDOW, Throttle, Throttled
from samstudent.server.auth.users import Users


@pytest.fixture
def users(tmp_path: Path) -> Users:
    return Users(tmp_path / "deep" / "users.json")


def test_user_is_added_changed_and_removed(users: Users) -> None:
    users.add("anna", "annotator", "a good password")
    content = users.path.read_text()
    assert "a good password" not in content and "$argon2id$" in content
    assert users.path.stat().st_mode & 0o777 == 0o600
    assert users.check("anna", "a good password") and not users.check("anna", "a Good password")
    assert not users.check("nobody", "a good password") and not users.check("nobody", "nobody has this password")
    users.set_password("anna", "a better password")
    assert users.check("anna", "a better password") and not users.check("anna", "a good password")
    users.set_role("anna", "admin")
    assert users.all()["anna"].role == "admin"
    users.remove("anna")
    assert not users.check("anna", "a better password") and users.all() == {}


def test_hashes_of_weaker_settings_are_renewed(users: Users) -> None:
    from argon2 import PasswordHasher

    users.add("anna", "annotator", "a good password")
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("a good password")
    content = json.loads(users.path.read_text())
    changed = content["users"]["anna"]["changed"]
    content["users"]["anna"]["password"] = weak
    users.path.write_text(json.dumps(content))
    assert users.check("anna", "a good password")
    assert users.all()["anna"].password != weak and users.check("anna", "a good password")
    assert users.all()["anna"].changed == changed  # nobody is logged out by it


def test_invalid_names_roles_and_passwords_are_named(users: Users) -> None:
    with pytest.raises(NotFound, match=r"users\.json"):
        users.all()
    for name in ("", "a b", "../x", "-x", "x" * 65):
        with pytest.raises(UserError, match="a name has"):
            users.add(name, "annotator", "a good password")
    with pytest.raises(UserError, match="annotator, reviewer, admin"):
        users.add("anna", "king", "a good password")
    with pytest.raises(UserError, match="8 to 1024"):
        users.add("anna", "annotator", "short")
    users.add("anna", "annotator", "a good password")
    with pytest.raises(Conflict, match="already"):
        users.add("anna", "admin", "a good password")
    with pytest.raises(NotFound, match="there is anna"):
        users.remove("otto")
    for broken in ("{", '{"users": {"anna": {"role": "king", "password": "x", "changed": 0}}}', '{"people": {}}'):
        users.path.write_text(broken)
        with pytest.raises(UserError, match="no users file"):
            users.all()


def test_users_command_edits_the_file(tmp_path: Path) -> None:
    runner, file = CliRunner(), str(tmp_path / "users.json")

    def run(*arguments: str, stdin: str = "") -> str:
        result = runner.invoke(app, ["users", *arguments, "--users", file], input=stdin, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    run("add", "anna", "--password-stdin", stdin="a good password\n")
    run("add", "ada", "--role", "admin", "--password-stdin", stdin="an admin's password\n")
    assert [line.split() for line in run("list").splitlines()] == [["ada", "admin"], ["anna", "annotator"]]
    run("passwd", "anna", "--password-stdin", stdin="another password\n")
    run("role", "anna", "reviewer")
    run("remove", "ada")
    assert [line.split() for line in run("list").splitlines()] == [["anna", "reviewer"]]
    assert Users(Path(file)).check("anna", "another password")
    with pytest.raises(UserError, match="password-stdin"):
        runner.invoke(app, ["users", "add", "x", "--users", file], catch_exceptions=False)


def test_clock_set_back_does_not_extend_the_throttle(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    login = FileLogin(users, LoginSessions(users.path.parent / "sessions"))
    tomorrow = time.time() + 86400
    monkeypatch.setattr(users_module.time, "time", lambda: tomorrow)
    users.add("anna", "annotator", "a good password")
    monkeypatch.undo()
    answer = login._by_password("anna", "a good password")
    assert answer and login.user_of(answer["access_token"])[0].username == "anna"
    users.set_role("anna", "reviewer")
    with pytest.raises(InvalidToken, match="changed since"):
        login.user_of(answer["access_token"])


def test_failed_logins_are_throttled() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    for _ in range(MOST_OF_A_NAME):
        throttle.check("anna", "10.0.0.1")
        throttle.failed("anna", "10.0.0.1")
    with pytest.raises(Throttled) as refused:
        throttle.check("anna", "10.0.0.1")
    assert refused.value.retry_after == WINDOW
    throttle.check("anna", "10.0.0.2")  # from elsewhere: nobody locks another out
    throttle.check("rita", "10.0.0.1")
    now[0] = WINDOW + 1
    throttle.check("anna", "10.0.0.1")
    for index in range(MOST_OF_AN_ADDRESS):
        throttle.failed(f"user{index}", "10.0.0.3")
    with pytest.raises(Throttled):
        throttle.check("rita", "10.0.0.3")
