"""What a viewer in the browser asks of the PACS, passed on: it shares the server's address, login and certificate.

The host's own proxy drops the query. OHIF's question for the other studies of one patient then comes back with the
studies of all patients, and it shows them as that patient's; its search finds everything, and its pages are all alike.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
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
#: Of a viewer's request; its cookie and login are for this server, not for the PACS.
_PASSED_ON = ("accept", "content-type", "range", "if-none-match", "if-modified-since")
#: Of the PACS's answer. Not what belongs to one connection, nor its own cookies and rules for other sites.
_PASSED_BACK = (
    "content-type", "content-length", "content-encoding", "content-range", "content-location", "accept-ranges", "etag",
    "last-modified", "warning",
)  # fmt: skip
_PREFIXES = {"qido": "MONAI_LABEL_QIDO_PREFIX", "wado": "MONAI_LABEL_WADO_PREFIX", "stow": "MONAI_LABEL_STOW_PREFIX"}
_local = threading.local()


def forward(request: Request, body: bytes, service: str, path: str) -> Response:
    """The PACS's answer to a viewer's request, in parts as they come.

    Args:
        request: method, query and headers are passed on.
        body: of the request.
        service: qido, wado, stow, or "".
        path: below the service, decoded, e.g. ``studies/1.2.3/metadata``.

    Raises:
        Unavailable: the PACS does not answer, or refuses this server's login.
    """
    settings = PacsSettings.from_environment()
    # OHIF asks the wrong service for these, and stores where it retrieves.
    if service == "qido" and path.endswith("metadata"):
        service = "wado"
    elif service == "wado" and request.method == "POST":
        service = "stow"
    prefix = getattr(host, _PREFIXES.get(service, ""), "") or ""
    root = host.MONAI_LABEL_STUDIES.rstrip("/")
    url = "/".join(part.strip("/") if part != root else root for part in (root, prefix, quote(path)) if part)
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    # As the browser says, or not at all: the answer's bytes are passed on as they are.
    headers["accept-encoding"] = request.headers.get("accept-encoding", "identity")
    try:
        answer = _session().request(
            request.method, url, params=request.url.query or None, headers=headers, data=body or None, stream=True,
            auth=settings.login, timeout=(CONNECT_SECONDS, settings.timeout),
        )  # fmt: skip
    except requests.RequestException as error:
        raise Unavailable(f"PACS {root} does not answer: {error}") from error
    if answer.status_code in (401, 403):
        answer.close()
        raise Unavailable(f"PACS {root} refuses this server's login (HTTP {answer.status_code})")
    passed = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
    return StreamingResponse(_parts(answer), answer.status_code, passed, background=BackgroundTask(answer.close))


def _parts(answer: requests.Response) -> Iterator[bytes]:
    yield from answer.raw.stream(CHUNK, decode_content=False)


def _session() -> requests.Session:
    """Session of this thread, so that connections are used again."""
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.session.trust_env = False  # no .netrc
    session: requests.Session = _local.session
    return session
