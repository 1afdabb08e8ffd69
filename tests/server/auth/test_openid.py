"""Tokens of an OpenID provider: forged ones with keys of the test, and a real provider with the real server."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from samstudent.server.auth import openid
from samstudent.server.auth.middleware import COOKIE
from samstudent.server.auth.openid import Claims, Provider
from support.live_server import RunningServer, TinyStudy, server_on

ISSUER = "https://login.hospital.example/realms/imaging"
KEYCLOAK = Claims("preferred_username", "email", "name", "realm_access#roles")


# ---- what is taken, and what is not ----


class Realm:
    """Keys and responses of a provider, without its process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: dict[str, Any] = {"k1": rsa.generate_private_key(65537, 2048)}
        self.asked = 0
        self.down = False
        monkeypatch.setattr(openid.requests, "get", self.get)

    def get(self, url: str, timeout: float) -> Any:
        if self.down:
            raise requests.ConnectionError("no route")
        self.asked += 1
        answer = requests.Response()
        answer.status_code = 200
        content: dict[str, Any] = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/certs"}
        if url.endswith("/certs"):
            content = {"keys": [self.public(kid) for kid in self.keys]}
            content["keys"].append({"kty": "RSA", "kid": "enc", "use": "enc", "n": "AQ", "e": "AQAB"})
        else:
            assert url == f"{ISSUER}/.well-known/openid-configuration"
        answer._content = json.dumps(content).encode()
        return answer

    def public(self, kid: str) -> dict[str, Any]:
        key = self.keys[kid].public_key()
        kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPublicKey) else jwt.algorithms.ECAlgorithm
        return {**kind.to_jwk(key, as_dict=True), "kid": kid, "use": "sig"}

    def token(self, kid: str | None = "k1", algorithm: str = "RS256", key: Any = None, **changes: Any) -> str:
        claims = {
            "iss": ISSUER,
            "aud": "account",
            "azp": "monailabel-app",
            "exp": time.time() + 300,
            "preferred_username": "anna",
            "email": "anna@hospital.example",
            "realm_access": {"roles": ["monailabel-annotator", "offline_access"]},
        }
        claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        headers = {"kid": kid} if kid else {}
        return jwt.encode(claims, key or self.keys[kid or "k1"], algorithm=algorithm, headers=headers)


@pytest.fixture
def realm(monkeypatch: pytest.MonkeyPatch) -> Realm:
    return Realm(monkeypatch)


@pytest.fixture
def provider() -> Provider:
    return Provider(f"{ISSUER}/", "monailabel-app", KEYCLOAK)


def test_valid_keycloak_token_has_user_and_roles(realm: Realm, provider: Provider) -> None:
    person = provider.person(realm.token())
    assert (person.name, person.email) == ("anna", "anna@hospital.example")
    assert person.roles == ("monailabel-annotator", "offline_access")
    assert provider.person(realm.token(realm_access=None)).roles == ()
    assert provider.person(realm.token(aud=["x", "monailabel-app"], azp="x")).name == "anna"
    assert provider.person(realm.token(kid=None)).name == "anna"  # a provider of one key need not name it


def test_tokens_with_elliptic_curve_keys_are_accepted(realm: Realm, provider: Provider) -> None:
    realm.keys["e1"] = ec.generate_private_key(ec.SECP256R1())
    assert provider.person(realm.token("e1", "ES256")).name == "anna"


def test_roles_are_read_from_a_plain_claim(realm: Realm) -> None:
    provider = Provider(ISSUER, "monailabel-app", Claims("sub", "email", "name", "groups"))
    assert provider.person(realm.token(sub="u1", groups=["a", 3, "b"])).roles == ("a", "b")
    assert provider.person(realm.token(sub="u1", groups="a")).roles == ("a",)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://login.hospital.example/realms/other"},
        {"iss": None},
        {"azp": "another-app"},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"preferred_username": None},
        {"preferred_username": ["anna"]},
        {"nbf": 4_000_000_000},
    ],
)
def test_invalid_tokens_are_rejected(realm: Realm, provider: Provider, changes: dict[str, Any]) -> None:
    with pytest.raises(jwt.InvalidTokenError):
        provider.person(realm.token(**changes))


def test_forged_signatures_are_rejected(realm: Realm, provider: Provider) -> None:
    other = rsa.generate_private_key(65537, 2048)
    public = realm.keys["k1"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(realm.token(), options={"verify_signature": False})
    # With the public key as a secret, as libraries once let pass: PyJWT refuses to make it, so it is made by hand.
    import base64
    import hashlib
    import hmac

    def part(content: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")

    body = part({"alg": "HS256", "kid": "k1"}) + b"." + part(claims)
    signed = base64.urlsafe_b64encode(hmac.new(pem, body, hashlib.sha256).digest()).rstrip(b"=")
    for token in (
        realm.token(key=other),
        jwt.encode(claims, None, algorithm="none", headers={"kid": "k1"}),
        (body + b"." + signed).decode(),
        "nonsense",
    ):
        with pytest.raises(jwt.InvalidTokenError):
            provider.person(token)


def test_changed_keys_are_fetched(realm: Realm, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(openid.time, "monotonic", lambda: now[0])
    old = realm.token()
    provider.person(old)
    asked = realm.asked
    realm.keys = {"k2": rsa.generate_private_key(65537, 2048)}
    with pytest.raises(jwt.InvalidTokenError):
        provider.person(realm.token("k2"))  # just looked: whoever invents keys makes nobody look all the time
    assert realm.asked == asked
    now[0] += openid.LOOK_AGAIN + 1
    assert provider.person(realm.token("k2")).name == "anna"
    with pytest.raises(jwt.InvalidTokenError):
        provider.person(old)  # its key was withdrawn
    realm.down = True
    now[0] += openid.READ_AGAIN + 1
    assert (
        provider.person(realm.token("k2", exp=time.time() + 9000)).name == "anna"
    )  # known keys count while it is down


def test_changed_key_without_an_id_is_fetched(
    realm: Realm, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(openid.time, "monotonic", lambda: now[0])
    provider.person(realm.token(kid=None))
    realm.keys = {"k1": rsa.generate_private_key(65537, 2048)}
    with pytest.raises(jwt.InvalidTokenError):
        provider.person(realm.token(kid=None))  # just looked
    now[0] += openid.LOOK_AGAIN + 1
    assert provider.person(realm.token(kid=None)).name == "anna"


def test_unreachable_provider_is_reported(realm: Realm, provider: Provider) -> None:
    realm.down = True
    with pytest.raises(requests.RequestException):
        provider.person(realm.token())


# ---- a real provider and the real server ----

PEOPLE = {"anna": ["monailabel-annotator"], "ada": ["monailabel-admin"], "eve": ["something-else"], "nora": []}


class RunningProvider:
    """oidc-provider-mock, an OpenID provider as a process: discovery, keys, authorization code, signed ID tokens."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.start()

    def start(self) -> None:
        """With a key of its own each time."""
        command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(self.port)]
        for name, roles in PEOPLE.items():
            claims = {"sub": name, "preferred_username": name, "realm_access": {"roles": roles}}
            command += ["--user-claims", json.dumps(claims)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.url}/.well-known/openid-configuration", timeout=5).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.2)
        pytest.fail(self.log.read_text())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def id_token(self, name: str, client_id: str) -> str:
        """ID token for a client of that name."""
        back = "http://localhost/back"
        query = {"client_id": client_id, "redirect_uri": back, "response_type": "code", "scope": "openid profile"}
        sent = requests.post(
            f"{self.url}/oauth2/authorize", params=query, data={"sub": name}, timeout=30, allow_redirects=False
        )
        code = parse_qs(urlsplit(sent.headers["Location"]).query)["code"][0]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back, "client_id": client_id}
        form["client_secret"] = "any"
        return str(requests.post(f"{self.url}/oauth2/token", data=form, timeout=30).json()["id_token"])


#: Our app, which looks for an unknown key again after a second.
MAIN = """\
from samstudent.server.auth import openid

openid.LOOK_AGAIN = 1.0

from samstudent.server.app import SamstudentApp
"""


@pytest.fixture(scope="module")
def real_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProvider]:
    pytest.importorskip("oidc_provider_mock")
    running = RunningProvider(tmp_path_factory.mktemp("provider") / "log")
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def server(
    study: TinyStudy, real_provider: RunningProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    login = {
        "MONAI_LABEL_AUTH_ENABLE": "true",
        "MONAI_LABEL_AUTH_REALM_URI": real_provider.url,
        "SAMSTUDENT_OPENID_CLIENT_SECRET": "any",
    }
    with server_on(study, tmp_path_factory.mktemp("home"), main=MAIN, environment=login) as running:
        yield running


def get(server: RunningServer, path: str, token: str, method: str = "GET") -> requests.Response:
    return requests.request(method, f"{server.url}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=60)


@pytest.mark.server
def test_server_accepts_tokens_of_the_provider(server: RunningServer, real_provider: RunningProvider) -> None:
    token = real_provider.id_token("anna", "monailabel-app")
    assert get(server, "/info/", token).ok
    assert get(server, "/samstudent/me", token).json()["user"] == "anna"
    assert get(server, "/train/", token, "DELETE").status_code == 403
    assert get(server, "/train/", real_provider.id_token("ada", "monailabel-app"), "DELETE").status_code == 200
    assert get(server, "/info/", real_provider.id_token("eve", "monailabel-app")).status_code == 403
    assert get(server, "/info/", real_provider.id_token("anna", "another-app")).status_code == 401
    assert get(server, "/info/", token[:-4] + "AAAA").status_code == 401
    reported = requests.get(f"{server.url}/auth/", timeout=30).json()
    assert reported["enabled"] and reported["realm"] == real_provider.url
    # This provider has no password grant; its refusal is the user's, not a fault of the server's.
    form = {"grant_type": "password", "username": "anna", "password": "guessed wrong"}
    assert requests.post(f"{server.url}/auth/token", data=form, timeout=30).status_code == 401


def log_in_by_browser(server: RunningServer, name: str) -> tuple[requests.Session, requests.Response]:
    session = requests.Session()
    session.headers["Accept"] = "text/html"
    asked = session.get(f"{server.url}/ohif/", timeout=60)  # by way of our page to the provider's
    assert "/oauth2/authorize" in asked.url
    back = session.post(asked.url, data={"sub": name}, timeout=60, allow_redirects=False).headers["Location"]
    assert back.startswith(f"{server.url}/samstudent/login/callback?")
    return session, session.get(back, timeout=60)


@pytest.mark.server
def test_browser_is_redirected_to_the_provider_and_back(server: RunningServer, study: TinyStudy) -> None:
    session, page = log_in_by_browser(server, "anna")
    assert page.ok and "url=/ohif/" in page.text and COOKIE in session.cookies
    assert session.get(f"{server.url}/ohif/", timeout=60).ok
    assert session.get(f"{server.url}/samstudent/me", timeout=60).json()["user"] == "anna"
    assert session.delete(f"{server.url}/train/", headers={"Origin": server.url}, timeout=60).status_code == 403
    again = session.get(page.url, timeout=60)  # a code is good once
    assert again.status_code == 400
    for stranger in ("eve", "nora"):
        session, page = log_in_by_browser(server, stranger)
        assert page.status_code == 401 and "no role" in page.text and COOKIE not in session.cookies
    lines = (study.folder / ".samstudent" / "tiny" / "audit.jsonl").read_text().splitlines()
    reported = [(line["action"], line["user"]) for line in map(json.loads, lines)]
    assert ("login", "anna") in reported and ("login failed", "eve") in reported


@pytest.mark.server
def test_login_started_in_another_browser_is_rejected(server: RunningServer) -> None:
    """An attacker could otherwise log in another user's browser under the attacker's account."""
    started = requests.get(f"{server.url}/samstudent/login", timeout=60, allow_redirects=False)
    state = re.search(r"state=([^&]+)", started.headers["Location"])
    assert state
    answer = requests.get(f"{server.url}/samstudent/login/callback?state={state.group(1)}&code=x", timeout=60)
    assert answer.status_code == 400


@pytest.mark.server
def test_server_accepts_tokens_after_a_key_change_of_the_provider(
    server: RunningServer, real_provider: RunningProvider
) -> None:
    real_provider.stop()
    real_provider.start()
    token = real_provider.id_token("ada", "monailabel-app")
    deadline = time.monotonic() + 60
    while get(server, "/info/", token).status_code == 401:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert get(server, "/info/", token).ok
