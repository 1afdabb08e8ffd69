"""An OpenID provider (Keycloak or another): its tokens checked, and browsers sent there to log in.

What it offers is read from its ``/.well-known/openid-configuration``; the host reads a Keycloak realm's own address
instead, which names one key without its id, so that a realm that changes its keys is refused from then on.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session

logger = logging.getLogger(__name__)

#: Signatures whose public key verifies but cannot sign. HS256 is not among them: with it, whoever knows the public key
#: makes any token.
ASYMMETRIC = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
#: An unknown key is looked for at the provider's, but not oftener than this (seconds): anybody can name one.
LOOK_AGAIN = 10.0
#: Keys are read again after this (seconds), so that a withdrawn key counts no more.
READ_AGAIN = 600.0
#: Clocks differ (seconds).
LEEWAY = 30.0
#: Seconds for logging in at the provider's.
PENDING_SECONDS = 600


@dataclass(frozen=True)
class Claims:
    """Names of the claims that say who a user is; a ``#`` leads inwards, as in Keycloak's ``realm_access#roles``."""

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


@dataclass(frozen=True)
class PendingLogin:
    """What is remembered of a browser until it comes back from the provider.

    Attributes:
        next: address on this server to which it goes then.
        state, nonce, verifier: random texts by which the way back, the ID token and the code are known.
    """

    next: str
    state: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(32))


class ProviderKeys(jwt.PyJWKClient):
    """Keys of a provider. Those that are known count while it does not answer.

    By ``requests``, as all that this server asks of a provider: with the same proxies and certificates.

    Args:
        uri: the provider's ``jwks_uri``.
        timeout: seconds.
    """

    def __init__(self, uri: str, timeout: float) -> None:
        super().__init__(uri, lifespan=READ_AGAIN, timeout=timeout, cooldown_duration=LOOK_AGAIN)
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}
        self._asked = -LOOK_AGAIN

    def fetch_data(self) -> Any:
        """The provider's key set, as JSON values."""
        if self._known and time.monotonic() - self._asked < LOOK_AGAIN:
            return self._known
        self._asked = time.monotonic()
        try:
            self._known = _json_of(self.uri, self.timeout)
        except (requests.RequestException, ValueError):
            if not self._known:
                raise
            logger.exception("%s: keys could not be read again; those known count", self.uri)
        return self._known

    def key(self, kid: str | None, refresh: bool = False) -> jwt.PyJWK:
        """Key of an id; where a token names none, the provider's only one.

        Args:
            kid: as the token names it.
            refresh: read the provider's keys again before, unless that was just done.

        Raises:
            jwt.PyJWKClientError: there is no such key. requests.RequestException: the provider does not answer.
        """
        with self._lock:
            if kid is not None:
                return self.get_signing_key(kid)
            keys = [key for key in self.get_jwk_set(refresh).keys if key.public_key_use in ("sig", None)]
            if len(keys) != 1:
                raise jwt.PyJWKClientError(f"the token names none of the provider's {len(keys)} keys")
            return keys[0]


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
        self._offer: tuple[dict[str, Any], ProviderKeys] | None = None

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
        kid = header.get("kid")
        try:
            claims = self._decoded(token, kid)
        except jwt.InvalidSignatureError:
            if kid is not None:
                raise
            claims = self._decoded(token, None, refresh=True)  # a new key without an id is only noticed by this
        aud = claims.get("aud", [])
        named = {aud} if isinstance(aud, str) else set(aud)
        # Keycloak's access tokens are for "account", and name the client that asked for them as the authorized party.
        named |= {claims.get("azp"), claims.get("client_id")}
        if not named & self.audiences:
            raise jwt.InvalidAudienceError(f"the token is for {sorted(map(str, named - {None}))}, not {self.client_id}")
        return claims

    def _decoded(self, token: str, kid: str | None, refresh: bool = False) -> dict[str, Any]:
        configuration, keys = self._offered()
        try:
            key = keys.key(kid, refresh)
        except (jwt.PyJWKClientError, jwt.PyJWKSetError) as error:
            raise jwt.InvalidTokenError(f"{self.address}: {error}") from error
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm_name] if key.algorithm_name in ASYMMETRIC else ASYMMETRIC,
            issuer=configuration["issuer"],
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

    def _offered(self) -> tuple[dict[str, Any], ProviderKeys]:
        """The provider's configuration and its keys."""
        with self._lock:
            if self._offer is None:
                configuration = _json_of(f"{self.address}/.well-known/openid-configuration", self.timeout)
                self._offer = configuration, ProviderKeys(configuration["jwks_uri"], self.timeout)
            return self._offer

    # ---- logging in ----

    def by_password(self, name: str, password: str) -> dict[str, Any] | None:
        """The provider's answer with a token, as 3D Slicer asks for it; None if it refuses name or password."""
        return self._token(self._client("openid profile"), grant_type="password", username=name, password=password)

    def start(self, redirect_uri: str, pending: PendingLogin) -> str:
        """Address to which a browser is sent to log in."""
        address: str = self._client("openid profile email").create_authorization_url(
            self._offered()[0]["authorization_endpoint"],
            state=pending.state,
            code_verifier=pending.verifier,
            nonce=pending.nonce,
            redirect_uri=redirect_uri,
        )[0]
        return address

    def finish(self, code: str, redirect_uri: str, pending: PendingLogin) -> Person:
        """Who came back with this code.

        Raises:
            jwt.InvalidTokenError: the provider takes code or client for wrong, or its token is no good.
            requests.RequestException: it does not answer.
        """
        answer = self._token(
            self._client("openid profile email"),
            grant_type="authorization_code",
            code=code,
            redirect_uri=redirect_uri,
            code_verifier=pending.verifier,
        )
        if answer is None or "id_token" not in answer:
            raise jwt.InvalidTokenError("the provider gave no ID token for the code")
        person = self.person(answer["id_token"], pending.nonce)
        if person.roles:
            return person
        try:  # Keycloak puts roles into the access token only
            richer = self.person(str(answer.get("access_token")))
        except jwt.InvalidTokenError:
            return person
        return richer if richer.name == person.name else person

    def _client(self, scope: str) -> OAuth2Session:
        return OAuth2Session(
            self.client_id,
            self.client_secret or None,
            token_endpoint_auth_method="client_secret_post" if self.client_secret else "none",
            scope=scope,
            code_challenge_method="S256",
            default_timeout=self.timeout,
        )

    def _token(self, client: OAuth2Session, **form: str) -> dict[str, Any] | None:
        """The provider's answer at its token endpoint; None where it refuses."""
        try:
            return dict(client.fetch_token(self._offered()[0]["token_endpoint"], **form))
        except OAuthError as error:
            logger.warning("%s refuses: %s", self.address, str(error)[:200])
            return None


def _json_of(url: str, timeout: float) -> dict[str, Any]:
    response = requests.get(url, timeout=timeout)
    response.raise_for_status()
    content: dict[str, Any] = response.json()
    return content


def _inside(claims: Mapping[str, Any], path: str) -> Any:
    node: Any = claims
    for part in path.split("#"):
        if not isinstance(node, Mapping):
            return None
        node = node.get(part)
    return node
