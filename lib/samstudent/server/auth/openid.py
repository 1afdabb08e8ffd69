"""Client of an OpenID provider (Keycloak or another): verification of tokens, and login of browsers by the code flow.

The configuration is read from ``/.well-known/openid-configuration``. The host reads the address of a Keycloak realm
instead, which has one key without its id, and fails after a key rotation.
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

#: Accepted asymmetric signature algorithms. Not HS256: the public key would be sufficient to sign tokens.
ASYMMETRIC = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
#: Shortest interval between two requests for the keys because of an unknown key id, seconds: any client can send one.
LOOK_AGAIN = 10.0
#: Lifetime of the cached keys, seconds, after which a withdrawn key is invalid.
READ_AGAIN = 600.0
#: Tolerated difference of clocks, seconds.
LEEWAY = 30.0
#: Longest duration of the code flow, seconds.
PENDING_SECONDS = 600


@dataclass(frozen=True)
class Claims:
    """Names of the claims about a user; ``#`` separates levels, as in Keycloak's ``realm_access#roles``."""

    username: str
    email: str
    name: str
    roles: str


@dataclass(frozen=True)
class Person:
    """Subject of a token."""

    name: str
    roles: tuple[str, ...]
    email: str | None
    full_name: str | None


@dataclass(frozen=True)
class PendingLogin:
    """State of the code flow of one browser.

    Attributes:
        next: address on this server after the login.
        state, nonce, verifier: random strings for callback, ID token and code (PKCE).
    """

    next: str
    state: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(32))


class ProviderKeys(jwt.PyJWKClient):
    """Keys of a provider, cached; cached keys stay valid while the provider does not respond.

    Fetched by ``requests`` as all data of the provider, with the same proxies and certificates.

    Args:
        uri: ``jwks_uri`` of the provider.
        timeout: timeout of a request, seconds.
    """

    def __init__(self, uri: str, timeout: float) -> None:
        super().__init__(uri, lifespan=READ_AGAIN, timeout=timeout, cooldown_duration=LOOK_AGAIN)
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}
        self._fetched = -LOOK_AGAIN

    def fetch_data(self) -> Any:
        """Key set of the provider, as JSON values."""
        if self._known and time.monotonic() - self._fetched < LOOK_AGAIN:
            return self._known
        self._fetched = time.monotonic()
        try:
            self._known = _json_of(self.uri, self.timeout)
        except (requests.RequestException, ValueError):
            if not self._known:
                raise
            logger.exception("%s: keys could not be updated; the cached ones stay valid", self.uri)
        return self._known

    def key(self, kid: str | None, refresh: bool = False) -> jwt.PyJWK:
        """Key of an id; without an id the only key of the provider.

        Args:
            kid: key id in the token.
            refresh: fetch the keys before, unless that was done recently.

        Raises:
            jwt.PyJWKClientError: no such key. requests.RequestException: no response from the provider.
        """
        with self._lock:
            if kid is not None:
                return self.get_signing_key(kid)
            keys = [key for key in self.get_jwk_set(refresh).keys if key.public_key_use in ("sig", None)]
            if len(keys) != 1:
                raise jwt.PyJWKClientError(f"the token has no key id, and the provider has {len(keys)} keys")
            return keys[0]


class Provider:
    """Client of one OpenID provider.

    Args:
        issuer: base address of the provider; for Keycloak the address of the realm.
        client_id: client id of this server, the required audience of tokens.
        claims: names of the claims.
        client_secret: client secret, if the provider requires one.
        audiences: further accepted audiences.
        timeout: timeout of a request, seconds.
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
        self._fetched_configuration: tuple[dict[str, Any], ProviderKeys] | None = None

    # ---- tokens ----

    def person(self, token: str, nonce: str | None = None) -> Person:
        """Subject of a verified token.

        Args:
            token: access token (JWT) or ID token.
            nonce: required nonce of an ID token.

        Raises:
            jwt.InvalidTokenError: wrong signature, issuer or audience, expired, or without a user name.
            requests.RequestException: no response from the provider, and no cached keys.
        """
        claims = self._verified(token)
        if nonce is not None and not secrets.compare_digest(str(claims.get("nonce")), nonce):
            raise jwt.InvalidTokenError("the token belongs to another login")
        return self._person(claims)

    def _verified(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ASYMMETRIC:
            raise jwt.InvalidAlgorithmError(f"tokens signed by {header.get('alg')} are not accepted")
        kid = header.get("kid")
        try:
            claims = self._decoded(token, kid)
        except jwt.InvalidSignatureError:
            if kid is not None:
                raise
            claims = self._decoded(token, None, refresh=True)  # a new key without an id is noticed by this alone
        aud = claims.get("aud", [])
        named = {aud} if isinstance(aud, str) else set(aud)
        # Keycloak's access tokens have the audience "account", and the client as authorized party.
        named |= {claims.get("azp"), claims.get("client_id")}
        if not named & self.audiences:
            raise jwt.InvalidAudienceError(f"the token is for {sorted(map(str, named - {None}))}, not {self.client_id}")
        return claims

    def _decoded(self, token: str, kid: str | None, refresh: bool = False) -> dict[str, Any]:
        configuration, keys = self._configuration_and_keys()
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

    def _configuration_and_keys(self) -> tuple[dict[str, Any], ProviderKeys]:
        """Configuration and keys of the provider, fetched once."""
        with self._lock:
            if self._fetched_configuration is None:
                configuration = _json_of(f"{self.address}/.well-known/openid-configuration", self.timeout)
                self._fetched_configuration = configuration, ProviderKeys(configuration["jwks_uri"], self.timeout)
            return self._fetched_configuration

    # ---- login ----

    def by_password(self, name: str, password: str) -> dict[str, Any] | None:
        """Token response for name and password, as 3D Slicer logs in; None if the provider refuses them."""
        return self._token(self._client("openid profile"), grant_type="password", username=name, password=password)

    def start(self, redirect_uri: str, pending: PendingLogin) -> str:
        """Authorization address of the code flow."""
        address: str = self._client("openid profile email").create_authorization_url(
            self._configuration_and_keys()[0]["authorization_endpoint"],
            state=pending.state,
            code_verifier=pending.verifier,
            nonce=pending.nonce,
            redirect_uri=redirect_uri,
        )[0]
        return address

    def finish(self, code: str, redirect_uri: str, pending: PendingLogin) -> Person:
        """User of an authorization code.

        Raises:
            jwt.InvalidTokenError: code or client refused by the provider, or invalid token.
            requests.RequestException: no response from the provider.
        """
        response = self._token(
            self._client("openid profile email"),
            grant_type="authorization_code",
            code=code,
            redirect_uri=redirect_uri,
            code_verifier=pending.verifier,
        )
        if response is None or "id_token" not in response:
            raise jwt.InvalidTokenError("the provider sent no ID token for the code")
        person = self.person(response["id_token"], pending.nonce)
        if person.roles:
            return person
        try:  # Keycloak puts roles into the access token only
            richer = self.person(str(response.get("access_token")))
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
        """Response of the token endpoint; None if the provider refuses the request."""
        try:
            return dict(client.fetch_token(self._configuration_and_keys()[0]["token_endpoint"], **form))
        except OAuthError as error:
            logger.warning("%s refused a token request: %s", self.address, str(error)[:200])
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
