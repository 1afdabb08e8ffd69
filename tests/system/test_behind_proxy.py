"""Two servers of ``samstudent serve`` below two paths of a real nginx with TLS, as in docs/how-to/behind-a-proxy.md:
``/wrist`` with a login on a folder, ``/organs`` on a PACS."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient

from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.server.auth.middleware import COOKIE
from samstudent.server.auth.users import Users
from support.browser import Browser
from support.ct_study import SERIES, CtStudy
from support.live_server import CASES, NO_SCORES, ServeCommand, TinyStudy, draw_study
from support.needed import require_browser
from support.nginx import Nginx
from support.ohif_page import WEBGL, Ohif

pytestmark = pytest.mark.server

PASSWORD = "annotates-daily"
#: Case id with characters that are encoded in addresses.
ODD = "à 100% #1&+;b"

_ICON = "/assets/android-chrome-144x144.png"


@dataclass
class Site:
    """The running site; ``films`` is the study of ``/wrist``."""

    nginx: Nginx
    films: TinyStudy

    @property
    def wrist(self) -> str:
        return f"{self.nginx.url}/wrist"

    @property
    def organs(self) -> str:
        return f"{self.nginx.url}/organs"

    def session(self, *, is_browser: bool = False) -> requests.Session:
        session = requests.Session()
        session.verify, session.trust_env = str(self.nginx.certificate), False
        if is_browser:
            session.headers["Accept"] = "text/html,*/*"
        return session

    def log_in(self) -> requests.Session:
        session = self.session()
        form = {"username": "anna", "password": PASSWORD}
        token = session.post(f"{self.wrist}/auth/token", data=form, timeout=60).json()["access_token"]
        session.headers["Authorization"] = f"Bearer {token}"
        return session


@pytest.fixture(scope="module")
def site(ct: CtStudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    films, home = draw_study(tmp_path_factory.mktemp("films")), tmp_path_factory.mktemp
    shutil.copyfile(films.image(CASES[0]), films.image(ODD))
    users = Users(home("users") / "users.json")
    users.add("anna", "annotator", PASSWORD)
    with ExitStack() as running:
        servers = []
        for study, options in (
            (films, ["--root-path", "/wrist/", "--users", str(users.path)]),
            (ct, ["--root-path", "/organs"]),
        ):
            servers.append(ServeCommand(study, home("home"), options=options, environment=NO_SCORES))  # type: ignore[arg-type]
            running.callback(servers[-1].stop)
        for server in servers:
            server.wait_until_up()
        nginx = Nginx(home("nginx"), {8001: servers[0].port, 8002: servers[1].port})
        running.callback(nginx.stop)
        yield Site(nginx, films)


def test_login_returns_to_the_page(site: Site) -> None:
    session = site.session(is_browser=True)
    sent = session.get(f"{site.wrist}/samstudent?x=1", timeout=60)
    assert sent.url == f"{site.wrist}/samstudent/login?next=/wrist/samstudent%3Fx%3D1"
    assert 'action="/wrist/samstudent/login"' in sent.text and 'value="/wrist/samstudent?x=1"' in sent.text
    form = {"username": "anna", "password": PASSWORD, "next": "/wrist/samstudent?x=1"}
    done = session.post(f"{site.wrist}/samstudent/login", data=form, timeout=60, allow_redirects=False)
    assert (done.status_code, done.headers["Location"]) == (303, "/wrist/samstudent?x=1")
    cookie = next(cookie for cookie in session.cookies if cookie.name == COOKIE)
    assert cookie.path == "/wrist" and cookie.secure and cookie.has_nonstandard_attr("HttpOnly")
    assert session.get(f"{site.wrist}/samstudent/me", timeout=60).json()["user"] == "anna"
    for outside in ("/organs/samstudent", "/", "//evil.example", "/wrist//evil.example", "/wristwatch/x"):
        done = session.post(
            f"{site.wrist}/samstudent/login", data=form | {"next": outside}, timeout=60, allow_redirects=False
        )
        assert done.headers["Location"] == "/wrist/"
    ended = session.post(f"{site.wrist}/samstudent/logout", headers={"X-Samstudent": "page"}, timeout=60)
    assert ended.ok and not [cookie for cookie in session.cookies if cookie.name == COOKIE]


def test_requests_of_other_sites_are_refused(site: Site) -> None:
    form = {"username": "anna", "password": PASSWORD}
    address = f"{site.wrist}/samstudent/login"
    for origin, status in ((site.nginx.url, 303), ("https://evil.example", 403), ("https://127.0.0.1", 403)):
        answer = site.session().post(address, data=form, headers={"Origin": origin}, timeout=60, allow_redirects=False)
        assert answer.status_code == status


def test_redirects_and_api_description_have_the_prefix(site: Site) -> None:
    session = site.log_in()
    moved = session.get(f"{site.wrist}/info", timeout=60, allow_redirects=False)
    assert (moved.status_code, moved.headers["Location"]) == (307, f"{site.wrist}/info/")
    assert session.get(f"{site.wrist}/info", timeout=60).json()["labels"] == site.films.task.names
    assert session.get(f"{site.wrist}/openapi.json", timeout=60).json()["servers"] == [{"url": "/wrist"}]
    assert "'/wrist/openapi.json'" in session.get(f"{site.wrist}/", timeout=60).text
    assert site.session().get(f"{site.organs}/info/", timeout=60).json()["labels"] == ["liver", "spleen"]
    assert site.session().get(f"{site.nginx.url}/info/", timeout=60).status_code == 404


def test_client_of_slicer(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(site.nginx.certificate))
    client = MONAILabelClient(f"{site.wrist}/", tmpdir=str(tmp_path), client_id="anna")
    assert client.auth_enabled()
    client.update_auth(client.auth_token("anna", PASSWORD))
    case = client.next_sample("random", {})["id"]
    if case == ODD:
        case = client.next_sample("random", {})["id"]
    client.save_label(case, str(site.films.label(case, tmp_path)), params={})
    assert client.info()["datastore"]["completed"] == 1
    grid = read_image(site.films.image(case)).grid
    saved = client.download_label(case, "final")
    os.rename(saved, f"{saved}.seg.nrrd")
    assert (read_masks(Path(f"{saved}.seg.nrrd"), site.films.task, grid) == site.films.truth[case]).all()


def test_odd_ids_and_long_bodies_arrive(site: Site) -> None:
    session = site.log_in()
    found = session.get(f"{site.wrist}/samstudent/annotate/{quote(ODD, safe='')}", timeout=60).json()
    assert found["case"] == ODD
    image = session.get(f"{site.wrist}/datastore/image", params={"image": ODD}, timeout=60)
    assert image.content == site.films.image(ODD).read_bytes()
    # Longer than what nginx takes by default.
    film = np.random.default_rng(0).integers(0, 255, (1500, 1500), dtype=np.uint8)
    files = {"files": ("long.nrrd", _nrrd(film))}
    assert session.put(f"{site.wrist}/session/", files=files, timeout=60).json()["session_id"]


def test_page_and_annotate_tab(site: Site, tmp_path: Path) -> None:
    require_browser()
    browser = Browser(tmp_path, site.wrist, "--ignore-certificate-errors")
    try:
        browser.open(f"samstudent#annotate/{CASES[3]}")
        browser.find("#username").send_keys("anna")
        browser.find("#password").send_keys(PASSWORD)
        browser.find("button").click()
        # A browser does not send the part after #.
        browser.find("#to-annotate").click()
        browser.open(f"samstudent#annotate/{CASES[3]}")
        browser.shows(CASES[3])
        assert min(browser.drawn()) > 0
        browser.find("#logout").click()
        browser.find("#username")
        assert browser.driver.current_url == f"{site.wrist}/samstudent/login?next=%2Fwrist%2Fsamstudent"
        assert browser.asked() == {site.nginx.url}
        assert not browser.console()
    finally:
        browser.close()


def test_ohif(site: Site, ct: CtStudy, tmp_path: Path) -> None:
    require_browser()
    browser = Browser(tmp_path, site.organs, f"{WEBGL} --ignore-certificate-errors")
    try:
        ohif = Ohif(browser)
        ohif.open_list([f"ct{seed}" for seed in range(SERIES)])
        ohif.open_study(ct.studies[ct.cases[0]])
        assert browser.run("return document.querySelector('#monailabelServerURL').value") == f"{site.organs}/"
        ohif.connect()
        assert ohif.segments() == {1: "liver", 2: "spleen"}
        asked = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        # The icon of OHIF's manifest is missing without a proxy, too.
        ours = {name for name in asked if name.startswith(site.nginx.url)} - {f"{site.nginx.url}{_ICON}"}
        assert ours and not [name for name in ours if not name.startswith(f"{site.organs}/")]
    finally:
        browser.close()


def _nrrd(pixels: np.ndarray[Any, Any]) -> bytes:
    header = f"NRRD0004\ntype: uint8\ndimension: 2\nsizes: {pixels.shape[1]} {pixels.shape[0]}\nencoding: raw\n\n"
    return header.encode() + pixels.tobytes()
