"""Real server with a users file and TLS: roles, browsers, Slicer's client, and audit log."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from requests_toolbelt.adapters.source import SourceAddressAdapter

from samstudent.rounds.study import Study
from samstudent.server import http
from samstudent.server.api import login
from samstudent.server.auth import roles
from samstudent.server.auth.audit import AuditFailed
from samstudent.server.auth.download_grants import SWITCH
from samstudent.server.auth.login_sessions import LoginSessions
from samstudent.server.auth.middleware import COOKIE, PUBLIC
from samstudent.server.auth.throttle import MOST_OF_A_NAME
from samstudent.server.auth.users import Users
from support.certificate import make_certificate
from support.live_server import CASES, RunningServer, TinyStudy, detail

pytestmark = pytest.mark.server

PASSWORDS = {"anna": "annotates-daily", "rita": "reviews-weekly", "ada": "administrates"}
ROLES = {"anna": "annotator", "rita": "reviewer", "ada": "admin"}
#: What each endpoint asks for at least. An endpoint that is not in here fails the test: decide, and write it down, also
#: in docs/how-to/login.md.
NEEDED = {
    "annotator": """
        GET /info/
        POST /infer/{model}
        POST /infer/wsi/{model}
        POST /infer/wsi_v2/{model}
        GET /batch/infer
        GET /train/
        POST /activelearning/{strategy}
        GET /scoring/
        GET /datastore/
        HEAD /datastore/image
        GET /datastore/image
        GET /datastore/image/info
        PUT /datastore/label
        HEAD /datastore/label
        GET /datastore/label
        GET /datastore/label/info
        PUT /datastore/label/info
        PUT /datastore/updatelabelinfo
        GET /datastore/dataset
        GET /ohif/{path:path}
        GET /proxy/dicom/{path:path}
        POST /proxy/dicom/{path:path}
        GET /session/{session_id}
        PUT /session/
        DELETE /session/{session_id}
        GET /samstudent/schedule
        GET /samstudent/rounds
        GET /samstudent/rounds/{round_id}
        GET /samstudent/sam
        GET /samstudent/me
        GET /samstudent/pacs
        GET /samstudent
        GET /samstudent/page/{name:path}
        GET /samstudent/overview
        GET /samstudent/promised
        GET /samstudent/review
        GET /samstudent/review/{case}
        GET /samstudent/review/{case}/image
        GET /samstudent/review/{case}/masks
        GET /samstudent/annotate
        GET /samstudent/annotate/{case}
        GET /samstudent/annotate/{case}/pixels
        GET /samstudent/annotate/{case}/label
        GET /samstudent/annotate/{case}/predicted
        GET /samstudent/annotate/{case}/history
        GET /samstudent/annotate/{case}/draft
        POST /samstudent/annotate/{case}/prepare
        POST /samstudent/annotate/{case}/sam
        PUT /samstudent/annotate/{case}/draft
        DELETE /samstudent/annotate/{case}/draft
        PUT /samstudent/annotate/{case}/label
        PUT /samstudent/annotate/{case}/flag
        DELETE /samstudent/annotate/{case}/flag
        POST /samstudent/logout
        GET /auth/token/valid
        GET /
        POST /reload
    """,
    "reviewer": """
        POST /samstudent/review/{case}/accept
        POST /samstudent/review/{case}/reject
        POST /samstudent/review/{case}/send
        DELETE /samstudent/review/{case}/decision
        POST /samstudent/promised
        DELETE /samstudent/promised/{batch}
    """,
    "admin": """
        POST /batch/infer/{model}
        DELETE /batch/infer
        POST /train/
        POST /train/{model}
        DELETE /train/
        POST /scoring/
        POST /scoring/{method}
        DELETE /scoring/
        PUT /datastore/
        PUT /datastore/image
        PUT /datastore/image/info
        DELETE /datastore/
        DELETE /datastore/image
        DELETE /datastore/label
        GET /logs/
        GET /logs/gpu
        GET /model/{model}
        GET /model/info/{model}
        PUT /model/{model}
        DELETE /model/{model}
        PUT /samstudent/schedule
        POST /samstudent/rounds/{round_id}/promote
        POST /samstudent/rollback
        POST /samstudent/sam/plain
    """,
}
ENDPOINTS = {tuple(line.split()): role for role, text in NEEDED.items() for line in text.strip().splitlines()}


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Users:
    made = Users(tmp_path_factory.mktemp("users") / "users.json")
    for name, password in PASSWORDS.items():
        made.add(name, ROLES[name], password)
    return made


@pytest.fixture(scope="module")
def server(study: TinyStudy, users: Users, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    certificate, key = make_certificate(tmp_path_factory.mktemp("tls"))
    running = RunningServer(
        study,
        tmp_path_factory.mktemp("home"),
        options=["--ssl_certfile", str(certificate), "--ssl_keyfile", str(key)],
        environment={"SAMSTUDENT_USERS": str(users.path), SWITCH: "true"},
        certificate=certificate,
    )
    try:
        running.wait_until_up()
        yield running
    finally:
        running.stop()


def call(server: RunningServer, method: str, path: str, token: str | None = None, **more: Any) -> requests.Response:
    headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **more.pop("headers", {})}
    more.setdefault("allow_redirects", False)
    return requests.request(
        method, f"{server.url}{path}", headers=headers, timeout=60, verify=str(server.certificate), **more
    )


def log_in(server: RunningServer, name: str, password: str | None = None) -> requests.Response:
    form = {"grant_type": "password", "username": name, "password": password or PASSWORDS[name]}
    return call(server, "POST", "/auth/token", data=form)


@pytest.fixture(scope="module")
def tokens(server: RunningServer) -> dict[str, str]:
    return {name: log_in(server, name).json()["access_token"] for name in PASSWORDS}


def browser(server: RunningServer) -> requests.Session:
    session = requests.Session()
    session.verify, session.trust_env = str(server.certificate), False
    session.headers["Accept"] = "text/html,*/*"
    return session


def audit(study: TinyStudy) -> list[dict[str, Any]]:
    file = study.folder / ".samstudent" / "tiny" / "audit.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


# ---- who may do what ----


def routes_there_are() -> set[tuple[str, str]]:
    """All routes, also those not in OpenAPI, from the same code in this process."""
    every = FastAPI()
    for router in (*http.ROUTERS, login.router, login.form_router):
        every.include_router(router)
    return {
        (method, route.path)
        for route in iter_route_contexts(every.routes)
        if isinstance(route.original_route, APIRoute)
        for method in route.methods or ()
    }


def test_every_endpoint_has_a_tested_role(server: RunningServer, tokens: dict[str, str]) -> None:
    public = {(method, path) for method, path in routes_there_are() if path in PUBLIC}
    assert routes_there_are() - public == set(ENDPOINTS) - {("GET", "/")}
    assert {path for _, path in public} | {"/samstudent/login/callback", "/favicon.ico"} == set(PUBLIC)
    described = call(server, "GET", "/openapi.json", tokens["anna"]).json()["paths"]
    shown = {(method.upper(), path) for path, methods in described.items() for method in methods}
    assert {(m, re.sub(r":path\}", "}", p)) for m, p in ENDPOINTS} | public >= shown


def at(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "nothing", path)


def test_requests_without_a_login_are_refused(server: RunningServer) -> None:
    for method, path in [*ENDPOINTS, ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/static/ohif/index.html")]:
        for token in (None, "nonsense", "a.b.c"):
            answer = call(server, method, at(path), token)
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_large_bodies_without_a_login_are_refused(server: RunningServer) -> None:
    for path in ("/auth/token", "/samstudent/login"):
        assert call(server, "POST", path, data={"username": "anna", "password": "x" * 100_000}).status_code == 413
        assert call(server, "POST", path, data=iter([b"username=anna"])).status_code == 413


def test_each_role_includes_those_below(server: RunningServer, tokens: dict[str, str]) -> None:
    ranks = list(NEEDED)
    for (method, path), needed in ENDPOINTS.items():
        if path in ("/samstudent/logout", "/scoring/", "/train/", "/samstudent/sam/plain") and method != "GET":
            continue  # would end the token, or start jobs; below and elsewhere
        for name, token in tokens.items():
            answer = call(server, method, at(path), token, headers={"X-Samstudent": "test"})
            reported = "" if method == "HEAD" else answer.text
            if ranks.index(ROLES[name]) < ranks.index(needed):
                assert answer.status_code == 403 and "is required" in reported, (name, method, path, reported)
            else:
                assert answer.status_code != 401 and "is required" not in reported, (name, method, path, reported)
    for method, path in (("DELETE", "/train/"), ("POST", "/train/"), ("POST", "/scoring/"), ("DELETE", "/scoring/")):
        for name in ("anna", "rita"):
            assert call(server, method, path, tokens[name]).status_code == 403
    assert call(server, "DELETE", "/train/", tokens["ada"]).status_code == 200
    assert call(server, "POST", "/samstudent/sam/plain", tokens["ada"]).status_code == 200


def test_current_user_and_permissions_are_reported(server: RunningServer, tokens: dict[str, str]) -> None:
    me = call(server, "GET", "/samstudent/me", tokens["rita"]).json()
    names = roles.role_names()
    assert me["may"] == {"annotate": True, "review": True, "administer": False}
    assert (me["login"], me["user"], me["roles"]) == (True, "rita", list(names[:3]))
    assert call(server, "GET", "/auth/token/valid", tokens["ada"]).json()["roles"] == list(names)


# ---- 3D Slicer ----


def test_client_of_slicer_logs_in(server: RunningServer, study: TinyStudy, tmp_path: Path) -> None:
    """The client sends another user's name; the login decides."""
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id="ada")
    assert client.auth_enabled()
    assert not client.auth_valid_token()
    with pytest.raises(MONAILabelClientException):
        client.info()
    with pytest.raises(MONAILabelClientException):
        client.auth_token("anna", "guessed wrong")
    client.update_auth(client.auth_token("anna", PASSWORDS["anna"]))
    assert client.auth_valid_token() and client.info()["name"]
    case = client.next_sample("random", {})["id"]
    client.save_label(case, str(study.label(case, tmp_path)), params={"user": "ada"})
    info = client.datastore()["objects"][case]["labels"]["final"]["info"]
    assert (info["client_id"], info["user"]) == ("anna", "anna")
    saved = [line for line in audit(study) if line["action"] == "label saved"]
    assert [(line["user"], line["case"], line["tag"], line["address"]) for line in saved] == [
        ("anna", case, "final", "127.0.0.1")
    ]
    # A user with another client keeps the reserved case; other users get another one.
    other = MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id="ada")
    other.update_auth(other.auth_token("rita", PASSWORDS["rita"]))
    reserved = client.next_sample("random", {})["id"]
    assert other.next_sample("random", {})["id"] != reserved
    with pytest.raises(MONAILabelClientException, match="403"):
        client.train_start("student", {})


def test_slicer_downloads_the_selected_image_without_a_token(server: RunningServer, tokens: dict[str, str]) -> None:
    """Slicer's own download sends no token (MONAI 6743)."""

    def status(method: str, path: str, session: requests.Session | None = None, **params: str) -> int:
        session = session or requests.Session()
        answer = session.request(
            method, f"{server.url}{path}", params=params, timeout=60, verify=str(server.certificate)
        )
        return answer.status_code

    closed = {case for case in CASES if status("GET", "/datastore/image", image=case) == 401}
    offered = call(server, "POST", "/activelearning/random", tokens["ada"], json={}).json()["id"]
    assert offered in closed
    other = next(case for case in sorted(closed) if case != offered)
    assert status("GET", "/datastore/image", image=offered) == 200
    assert status("HEAD", "/datastore/image", image=offered) == 200
    assert status("GET", "/datastore/image", image=f"../{offered}") == 401
    assert status("GET", "/datastore/image", image=other) == 401
    assert status("GET", "/datastore/image/info", image=offered) == 401
    assert status("GET", "/datastore/label", label=offered, tag="final") == 401
    assert status("PUT", "/datastore/image", image=offered) == 401
    elsewhere = requests.Session()
    elsewhere.mount("https://", SourceAddressAdapter("127.0.0.9"))
    assert status("GET", "/datastore/image", elsewhere, image=offered) == 401


def test_uploads_are_accessible_to_their_user_only(
    server: RunningServer, study: TinyStudy, tokens: dict[str, str]
) -> None:
    files = {"files": ("film.png", study.image(CASES[0]).read_bytes())}
    made = call(server, "PUT", "/session/", tokens["anna"], files=files).json()["session_id"]
    assert call(server, "GET", f"/session/{made}?image=true", tokens["anna"]).ok
    for method in ("GET", "DELETE"):
        assert call(server, method, f"/session/{made}", tokens["rita"]).status_code == 404
    assert call(server, "POST", f"/infer/sam?session_id={made}", tokens["rita"]).status_code == 404
    assert call(server, "DELETE", f"/session/{made}", tokens["ada"]).ok


# ---- browsers ----


def test_browser_is_redirected_to_the_login_page_and_back(server: RunningServer, study: TinyStudy) -> None:
    session = browser(server)
    sent = session.get(f"{server.url}/ohif/viewer?Study=1", timeout=60)
    assert sent.url.endswith("/samstudent/login?next=/ohif/viewer%3FStudy%3D1") and "<form" in sent.text
    form = {"username": "anna", "password": "guessed wrong", "next": "/ohif/viewer?Study=1"}
    wrong = session.post(f"{server.url}/samstudent/login", data=form, timeout=60)
    assert wrong.status_code == 401 and "wrong" in wrong.text and not session.cookies
    assert "guessed" not in wrong.text
    form["password"] = PASSWORDS["anna"]
    right = session.post(f"{server.url}/samstudent/login", data=form, timeout=60, allow_redirects=False)
    assert (right.status_code, right.headers["Location"]) == (303, "/ohif/viewer?Study=1")
    flags = right.headers["set-cookie"].lower()
    assert "httponly" in flags and "samesite=strict" in flags and "secure" in flags
    for path in ("/ohif/", "/static/ohif/index.html", "/info/", "/openapi.json", "/samstudent/me", "/datastore/"):
        assert session.get(f"{server.url}{path}", timeout=60).ok, path
    script = re.search(r'src="[^"]*?([^"/]+\.js)"', session.get(f"{server.url}/ohif/", timeout=60).text)
    assert script and "javascript" in session.get(f"{server.url}/ohif/{script[1]}", timeout=60).headers["Content-Type"]
    ask = f"{server.url}/infer/sam?image={CASES[1]}&output=json"
    click = {"params": json.dumps({"label": "lunate", "foreground": [[31, 26, 0]], "background": [], "slice": 0})}
    assert session.post(ask, data=click, headers={"Origin": server.url}, timeout=60).ok
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        refused = session.post(ask, data=click, headers=headers, timeout=60)
        assert refused.status_code == 403 and "another site" in detail(refused)
        assert "access-control-allow-origin" not in refused.headers
    kept = session.cookies[COOKIE]
    assert session.post(f"{server.url}/samstudent/logout", headers={"Origin": server.url}, timeout=60).ok
    assert not session.cookies
    assert call(server, "GET", "/info/", kept).status_code == 401
    assert call(server, "GET", "/info/", cookies={COOKIE: kept}).status_code == 401


@pytest.mark.parametrize("next", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:1", "/a\nb"])
def test_redirect_after_login_stays_on_the_server(server: RunningServer, next: str) -> None:
    form = {"username": "anna", "password": PASSWORDS["anna"], "next": next}
    assert call(server, "POST", "/samstudent/login", data=form).headers["Location"] == "/"
    page = call(server, "GET", "/samstudent/login", params={"next": '/"><script>'}).text
    assert "<script>" not in page


def test_login_from_another_site_is_refused(server: RunningServer) -> None:
    form = {"username": "anna", "password": PASSWORDS["anna"]}
    answer = call(server, "POST", "/samstudent/login", data=form, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403


# ---- how long a login lasts ----


def test_tokens_expire_and_browser_sessions_are_renewed(server: RunningServer, users: Users) -> None:
    file = users.path.with_name(users.path.name + ".sessions")
    assert file.stat().st_mode & 0o077 == 0 and users.path.stat().st_mode & 0o077 == 0
    version = users.all()["anna"].changed
    expired, _ = LoginSessions(file, life=-1).open("anna", ("admin",), "users", version=version)
    assert call(server, "GET", "/info/", expired).status_code == 401
    # Less than half of an hour is left.
    old, _ = LoginSessions(file, life=900).open("anna", ("admin",), "users", version=version)
    assert "set-cookie" not in call(server, "GET", "/info/", old).headers
    renewing = call(server, "GET", "/info/", cookies={COOKIE: old})
    assert renewing.ok and COOKIE in renewing.cookies
    assert LoginSessions(file).read(old).expires > time.time() + 1800
    # The role is the file's, whatever a session says.
    assert call(server, "DELETE", "/train/", old).status_code == 403
    of_nobody, _ = LoginSessions(file).open("nobody", ("admin",), "users", version=version)
    of_openid, _ = LoginSessions(file).open("anna", ("admin",), "openid", version=version)
    for refused in (of_nobody, of_openid, old[:-1], jwt.encode({"sub": "anna"}, None, algorithm="none")):
        assert call(server, "GET", "/info/", refused).status_code == 401


def test_changes_of_the_users_file_apply_immediately(server: RunningServer, users: Users) -> None:
    users.add("otto", "admin", "short-lived user")
    first = log_in(server, "otto", "short-lived user").json()["access_token"]
    assert call(server, "GET", "/logs/", first).status_code == 200
    users.set_role("otto", "annotator")
    assert call(server, "GET", "/logs/", first).status_code == 401
    second = log_in(server, "otto", "short-lived user").json()["access_token"]
    assert call(server, "GET", "/logs/", second).status_code == 403
    users.set_password("otto", "another password")
    assert call(server, "GET", "/info/", second).status_code == 401
    assert log_in(server, "otto", "short-lived user").status_code == 401
    third = log_in(server, "otto", "another password").json()["access_token"]
    users.remove("otto")
    assert call(server, "GET", "/info/", third).status_code == 401
    assert log_in(server, "otto", "another password").status_code == 401


def test_repeated_wrong_passwords_are_throttled(server: RunningServer, users: Users) -> None:
    users.add("hugo", "annotator", "to be guessed")
    for _ in range(MOST_OF_A_NAME):
        assert log_in(server, "hugo", "guessed wrong").status_code == 401
    waits = log_in(server, "hugo", "to be guessed")
    assert waits.status_code == 429 and int(waits.headers["Retry-After"]) > 60
    assert log_in(server, "anna").ok  # others do not wait


# ---- the audit ----


def test_changes_and_logins_are_audited(
    server: RunningServer, study: TinyStudy, tokens: dict[str, str], tmp_path: Path
) -> None:
    before = len(audit(study))
    files = {"label": ("x.seg.nrrd", study.label(CASES[9], tmp_path).read_bytes())}
    assert call(server, "PUT", f"/datastore/label?image={CASES[9]}", tokens["rita"], files=files).ok
    assert call(server, "DELETE", f"/datastore/label?id={CASES[9]}&tag=final", tokens["ada"]).ok
    assert call(server, "DELETE", f"/datastore/label?id={CASES[9]}&tag=final", tokens["ada"]).status_code == 404
    log_in(server, "anna", "guessed wrong")
    log_in(server, "anna")
    lines = audit(study)[before:]
    assert [(line["action"], line["user"]) for line in lines] == [
        ("label saved", "rita"),
        ("label removed", "ada"),
        ("login failed", "anna"),
        ("login", "anna"),
    ]
    assert lines[0]["case"] == lines[1]["case"] == CASES[9]
    assert all(line["address"] == "127.0.0.1" and line["time"].endswith("Z") for line in lines)
    assert not any(password in json.dumps(audit(study)) for password in [*PASSWORDS.values(), "guessed wrong"])


def test_change_is_refused_without_an_audit_record(
    server: RunningServer, study: TinyStudy, tokens: dict[str, str], tmp_path: Path
) -> None:
    def listed() -> Any:
        """The case's entry, which may have a label: Slicer's client above was given any case."""
        return call(server, "GET", "/datastore/?output=all", tokens["anna"]).json()["objects"][CASES[8]]

    file = study.folder / ".samstudent" / "tiny" / "audit.jsonl"
    before = listed()
    aside = file.rename(file.with_name("aside"))
    file.mkdir()
    try:
        files = {"label": ("x.seg.nrrd", study.label(CASES[8], tmp_path).read_bytes())}
        refused = call(server, "PUT", f"/datastore/label?image={CASES[8]}", tokens["anna"], files=files)
        assert refused.status_code == 503 and "audit.jsonl" in detail(refused)
        assert log_in(server, "anna").status_code == 503
        assert call(server, "GET", "/info/", tokens["anna"]).ok
    finally:
        file.rmdir()
        aside.rename(file)
    assert listed() == before
    assert log_in(server, "anna").ok


def test_trainings_are_audited(server: RunningServer, study: TinyStudy, tokens: dict[str, str], tmp_path: Path) -> None:
    for case in CASES[:3]:
        files = {"label": ("x.seg.nrrd", study.label(case, tmp_path).read_bytes())}
        assert call(server, "PUT", f"/datastore/label?image={case}", tokens["anna"], files=files).ok
    before = len(audit(study))
    started = call(server, "POST", "/train/student", tokens["ada"], json={"pseudo_labels": "off", "client_id": "anna"})
    assert started.ok, started.text
    call(server, "DELETE", "/train/", tokens["ada"])
    lines = [(line["action"], line["user"]) for line in audit(study)[before:]]
    assert lines == [("training started", "ada"), ("training stopped", "ada")]


def test_all_promotions_are_audited(study: TinyStudy, tmp_path: Path) -> None:
    """By a round of the server, the command line, and an administrator: all by the ledger."""
    state = Study(str(tmp_path), str(tmp_path), study.task)
    for _ in range(2):
        with state.ledger.run("a test") as id:
            state.ledger.model_path(id).write_bytes(id.encode())
    state.ledger.promote("r0001", why="better")
    state.ledger.promote("r0001", who="ada")  # is served already: nothing happens
    state.ledger.promote("r0002", who="ada")
    state.ledger.rollback(who="command line")
    file = state.folder / "audit.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["action"], line["user"], line["round"]) for line in lines] == [
        ("promotion", "training", "r0001"),
        ("promotion", "ada", "r0002"),
        ("roll-back", "command line", "r0001"),
    ]
    file.unlink()
    file.mkdir()
    with pytest.raises(AuditFailed):
        state.ledger.promote("r0002", who="ada")
    champion = state.ledger.champion()
    assert champion and champion.id == "r0001"


def test_ohif_works_in_a_browser_with_a_login(server: RunningServer, tmp_path: Path) -> None:
    """By the login page to OHIF: its scripts are loaded, and its requests succeed."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver_path:
        pytest.skip("Debian's chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = "--disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    for argument in f"--headless=new --no-sandbox --disable-gpu --ignore-certificate-errors {quiet}".split():
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        driver.get(f"{server.url}/ohif/")
        assert driver.current_url.startswith(f"{server.url}/samstudent/login")
        driver.find_element("name", "username").send_keys("anna")
        driver.find_element("name", "password").send_keys(PASSWORDS["anna"])
        driver.find_element("tag name", "button").click()
        deadline = time.monotonic() + 60
        while not driver.execute_script("return document.querySelector('#root')?.children.length"):
            assert time.monotonic() < deadline, driver.page_source[:2000]
            time.sleep(0.5)
        assert driver.current_url.startswith(f"{server.url}/ohif/")
        assert COOKIE not in driver.execute_script("return document.cookie")
        ask = "fetch(arguments[0], {method: arguments[1]}).then(answer => arguments[2](answer.status))"
        for method, path, status in (("GET", "/info/", 200), ("POST", "/session/x", 405), ("DELETE", "/train/", 403)):
            assert driver.execute_async_script(ask, path, method) == status
    finally:
        driver.quit()
