"""Proxy of the PACS for viewers in the browser, which use the server's address, login and certificate.

The host's own proxy drops the query string: OHIF's query for further studies of a patient then returns the studies of
all patients, its search finds everything, and all pages are equal.
"""

from __future__ import annotations

import threading
from urllib.parse import quote

import requests
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from monailabel.config import settings as host
from starlette.background import BackgroundTask

from samstudent.errors import Unavailable
from samstudent.server.pacs.client import CONNECT_SECONDS
from samstudent.server.pacs.settings import PacsSettings

CHUNK = 1 << 18
#: Forwarded request headers; cookie and login are for this server, not for the PACS.
_REQUEST_HEADERS = ("accept", "content-type", "range", "if-none-match", "if-modified-since")
#: Forwarded response headers; not those of the connection, cookies, or rules for other sites.
_RESPONSE_HEADERS = (
    "content-type", "content-length", "content-encoding", "content-range", "content-location", "accept-ranges", "etag",
    "last-modified", "warning",
)  # fmt: skip
_PREFIXES = {"qido": "MONAI_LABEL_QIDO_PREFIX", "wado": "MONAI_LABEL_WADO_PREFIX", "stow": "MONAI_LABEL_STOW_PREFIX"}
_local = threading.local()


def forward(request: Request, body: bytes, service: str, path: str) -> Response:
    """Response of the PACS to a viewer's request, streamed.

    Args:
        request: request with method, query and headers to forward.
        body: body of the request.
        service: qido, wado, stow, or "".
        path: path below the service, decoded, e.g. ``studies/1.2.3/metadata``.

    Raises:
        Unavailable: no response from the PACS, or it refuses this server's login.
    """
    settings = PacsSettings.from_environment()
    # OHIF sends requests for metadata to QIDO-RS, and stores at the WADO-RS address.
    if service == "qido" and path.endswith("metadata"):
        service = "wado"
    elif service == "wado" and request.method == "POST":
        service = "stow"
    prefix = getattr(host, _PREFIXES.get(service, ""), "") or ""
    root = host.MONAI_LABEL_STUDIES.rstrip("/")
    url = "/".join(part.strip("/") if part != root else root for part in (root, prefix, quote(path)) if part)
    headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
    # The encoding of the browser, or none: the bytes of the response are forwarded unchanged.
    headers["accept-encoding"] = request.headers.get("accept-encoding", "identity")
    try:
        response = _session().request(
            request.method, url, params=request.url.query or None, headers=headers, data=body or None, stream=True,
            auth=settings.login, timeout=(CONNECT_SECONDS, settings.timeout),
        )  # fmt: skip
    except requests.RequestException as error:
        raise Unavailable(f"no response from PACS {root}: {error}") from error
    if response.status_code in (401, 403):
        response.close()
        raise Unavailable(f"PACS {root} refuses this server's login (HTTP {response.status_code})")
    forwarded = {name: response.headers[name] for name in _RESPONSE_HEADERS if name in response.headers}
    stream = response.raw.stream(CHUNK, decode_content=False)
    return StreamingResponse(stream, response.status_code, forwarded, background=BackgroundTask(response.close))


def _session() -> requests.Session:
    """Session of the current thread, for reuse of connections."""
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.session.trust_env = False  # no .netrc
    session: requests.Session = _local.session
    return session
