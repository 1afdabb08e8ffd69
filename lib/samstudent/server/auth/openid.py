"""An OpenID provider (Keycloak or another): its tokens checked, and browsers sent there to log in.

What it offers is read from its ``/.well-known/openid-configuration``; the host reads a Keycloak realm's own address
instead, which names one key without its id, so that a realm that changes its keys is refused from then on.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import jwt
import requests

logger = logging.getLogger(__name__)

#: Signatures whose public key verifies but cannot sign. HS256 is not among them: with it, whoever knows the public key
#: makes any token.
ASYMMETRIC = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
#: An unknown key is looked for at the provider's, but not oftener than this (seconds): anybody can name one.
LOOK_AGAIN = 10.0
#: Configuration and keys are read again after this (seconds), so that a withdrawn key counts no more.
READ_AGAIN = 600.0
#: Clocks differ (seconds).
LEEWAY = 30.0


@dataclass(frozen=True)
class Claims:
    """Which claims say who somebody is; a ``#`` leads inwards, as in Keycloak's ``realm_access#roles``."""

    username: str
    email: str
    name: str
    roles: str


@dataclass(frozen=True)
class Person:
    """Who a token is about."""

    name: str
    roles: tuple[str, ...]
    email: str | None
    full_name: str | None


class Provider:
    """One OpenID provider.

    Args:
        issuer: its address, below which the configuration lies; for Keycloak the realm's.
        client_id: this server's name there; tokens must be for it.
        claims: where to look in a token.
        client_secret: for providers that ask one of a server.
        audiences: other names that tokens may be for.
        timeout: for each answer of the provider's, seconds.
    """

    def __init__(
        self,
        issuer: str,
        client_id: str,
        claims: Claims,
        client_secret: str = "",
        audiences: Collection[str] = (),
        timeout: float = 10,
    ) -> None:
        self.address = issuer.rstrip("/")
        self.client_id, self.client_secret, self.claims, self.timeout = client_id, client_secret, claims, timeout
        self.audiences = {client_id, *audiences}
        self._lock = threading.Lock()
        self._configuration: dict[str, Any] = {}
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at = -READ_AGAIN

    # ---- tokens ----

    def person(self, token: str, nonce: str | None = None) -> Person:
        """Who a token is about.

        Args:
            token: an access token in the form of a JWT, or an ID token.
            nonce: what an ID token must repeat.

        Raises:
            jwt.InvalidTokenError: not this provider's, not for this server, expired, or nobody is named in it.
            requests.RequestException: the provider does not answer, and its keys are not known yet.
        """
        claims = self._verified(token)
        if nonce is not None and not secrets.compare_digest(str(claims.get("nonce")), nonce):
            raise jwt.InvalidTokenError("the token answers another login")
        return self._person(claims)

    def _verified(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ASYMMETRIC:
            raise jwt.InvalidAlgorithmError(f"tokens signed by {header.get('alg')} are not taken")
        key = self._key(header.get("kid"))
        try:
            claims = self._decoded(token, key)
        except jwt.InvalidSignatureError:
            if header.get("kid"):
                raise
            # Where keys have no ids, a new one is only noticed by this.
            claims = self._decoded(token, self._key(None, instead_of=key))
        aud = claims.get("aud", [])
        meant = {aud} if isinstance(aud, str) else set(aud)
        # Keycloak's access tokens are for "account", and name the client that asked for them as the authorized party.
        meant |= {claims.get("azp"), claims.get("client_id")}
        if not meant & self.audiences:
            raise jwt.InvalidAudienceError(f"the token is for {sorted(map(str, meant - {None}))}, not {self.client_id}")
        return claims

    def _decoded(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm_name] if key.algorithm_name in ASYMMETRIC else ASYMMETRIC,
            issuer=self._configuration["issuer"],
            leeway=LEEWAY,
            options={"require": ["exp", "iss"], "verify_aud": False},
        )
        return claims

    def _person(self, claims: Mapping[str, Any]) -> Person:
        name = _inside(claims, self.claims.username)
        if not isinstance(name, str) or not name:
            raise jwt.InvalidTokenError(f"the token has no {self.claims.username}")
        roles = _inside(claims, self.claims.roles)
        roles = [roles] if isinstance(roles, str) else roles if isinstance(roles, list) else []
        email, full_name = (_inside(claims, key) for key in (self.claims.email, self.claims.name))
        return Person(
            name,
            tuple(role for role in roles if isinstance(role, str)),
            email if isinstance(email, str) else None,
            full_name if isinstance(full_name, str) else None,
        )

    def _key(self, kid: str | None, instead_of: jwt.PyJWK | None = None) -> jwt.PyJWK:
        """The key of an id. ``instead_of``: one that turned out not to be it."""
        with self._lock:
            age = time.monotonic() - self._read_at
            if age > READ_AGAIN or (self._find(kid) in (None, instead_of) and age > LOOK_AGAIN):
                try:
                    self._read()
                except (requests.RequestException, ValueError, KeyError):
                    if not self._keys:
                        raise
                    logger.exception("%s: its keys could not be read again; those known count", self.address)
            key = self._find(kid)
        if key is None:
            raise jwt.InvalidTokenError(f"{self.address} has no key {kid!r}")
        return key

    def _find(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    # ---- what the provider offers ----

    def configuration(self) -> dict[str, Any]:
        """Its addresses."""
        with self._lock:
            if not self._configuration:
                self._read()
            return self._configuration

    def _read(self) -> None:
        self._read_at = time.monotonic()
        configuration = self._get(f"{self.address}/.well-known/openid-configuration")
        keys: dict[str | None, jwt.PyJWK] = {}
        for entry in self._get(configuration["jwks_uri"])["keys"]:
            if entry.get("use", "sig") == "sig" and entry.get("kty") in ("RSA", "EC"):
                try:
                    keys[entry.get("kid")] = jwt.PyJWK(entry)
                except jwt.PyJWTError as error:
                    logger.warning("%s: key %s is left out: %s", self.address, entry.get("kid"), error)
        self._configuration, self._keys = configuration, keys

    def _get(self, url: str) -> dict[str, Any]:
        response = requests.get(url, timeout=self.timeout)
        response.raise_for_status()
        content: dict[str, Any] = response.json()
        return content

    # ---- logging in ----

    def by_password(self, name: str, password: str) -> dict[str, Any] | None:
        """The provider's answer with a token, as 3D Slicer asks for it; None if it refuses name or password."""
        form = {"grant_type": "password", "username": name, "password": password, "scope": "openid profile"}
        return self._token(form)

    def start(self, redirect_uri: str) -> tuple[str, dict[str, str]]:
        """Where to send a browser, and what to remember of it until it comes back."""
        memory = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
        challenge = urlsafe_b64encode(hashlib.sha256(memory["verifier"].encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "scope": "openid profile email",
            "state": memory["state"],
            "nonce": memory["nonce"],
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        address = self.configuration()["authorization_endpoint"]
        return f"{address}{'&' if '?' in address else '?'}{urlencode(query)}", memory

    def finish(self, code: str, redirect_uri: str, memory: Mapping[str, str]) -> Person:
        """Who came back with this code.

        Raises:
            jwt.InvalidTokenError: the provider takes code or client for wrong, or its token is no good.
            requests.RequestException: it does not answer.
        """
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        answer = self._token(form | {"code_verifier": memory["verifier"]})
        if answer is None or "id_token" not in answer:
            raise jwt.InvalidTokenError("the provider gave no ID token for the code")
        person = self.person(answer["id_token"], memory["nonce"])
        if person.roles:
            return person
        try:  # Keycloak puts roles into the access token only
            richer = self.person(str(answer.get("access_token")))
        except jwt.InvalidTokenError:
            return person
        return richer if richer.name == person.name else person

    def _token(self, form: dict[str, str]) -> dict[str, Any] | None:
        form["client_id"] = self.client_id
        if self.client_secret:
            form["client_secret"] = self.client_secret
        response = requests.post(self.configuration()["token_endpoint"], data=form, timeout=self.timeout)
        if response.status_code in (400, 401, 403):
            logger.warning("%s refuses: %s", self.address, response.text[:200])
            return None
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


def _inside(claims: Mapping[str, Any], path: str) -> Any:
    node: Any = claims
    for part in path.split("#"):
        if not isinstance(node, Mapping):
            return None
        node = node.get(part)
    return node
