"""DICOMweb client with bounded waits and validated responses.

Every fault of a PACS (no connection, no response, an endless slow response, HTML, other JSON, an incomplete series)
becomes ``Unavailable`` with the reason.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import requests
from monailabel.config import settings as host
from monailabel.datastore.dicom import DICOMwebClientX
from pydicom.dataset import Dataset

from samstudent.errors import Unavailable
from samstudent.server.pacs.settings import PacsSettings

logger = logging.getLogger(__name__)
# It logs each query.
logging.getLogger("dicomweb_client").setLevel(logging.WARNING)

CONNECT_SECONDS = 5.0
#: Longest duration of a complete response, in timeouts: lists, images.
LIST_TIMEOUTS, IMAGE_TIMEOUTS = 3, 30
PAGE = 1000
#: A shorter page is the last one: no server has smaller pages.
SHORT_PAGE = 50
#: Media type of instances as stored; by default a PACS would decompress them.
AS_STORED = (("application/dicom", "*"),)
#: Failure reason: the instance exists (DICOM PS3.7, C.5.7).
_DUPLICATE = 0x0111
_UID = re.compile(r"[0-9][0-9.]{0,63}")
_FIELDS = (
    "NumberOfSeriesRelatedInstances", "StudyDate", "StudyTime", "PatientID", "StudyDescription", "SeriesDescription",
    "BodyPartExamined",
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One series as listed by the PACS; ``facts`` are its attributes by keyword, as strings."""

    study: str
    uid: str
    modality: str
    images: int
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Instance:
    """One image or SEG of a series."""

    uid: str
    number: int
    frames: int


class Refused(Unavailable):
    """The PACS responds, but refuses this request or object."""


class Pacs:
    """One DICOMweb server.

    Args:
        url: root, e.g. http://127.0.0.1:8042/dicom-web.
        settings: settings of the connection.
    """

    def __init__(self, url: str, settings: PacsSettings) -> None:
        self.url = url.rstrip("/")
        self.settings = settings
        # Sessions of requests are not thread-safe.
        self._local = threading.local()

    # ---- lists ----

    def series(self) -> list[Series]:
        """Image series that pass the filters, and all segmentation series."""
        modalities, filters = self.settings.modalities, self.settings.filters
        if filters:
            queries = [{**filters, "Modality": modality} for modality in modalities] + [{"Modality": "SEG"}]
        else:
            queries = [{}]  # one query instead of one for each modality
        found: dict[str, Series] = {}
        for query in queries:
            found |= {series.uid: series for series in self._pages(query)}
        return [series for series in found.values() if series.modality in (*modalities, "SEG")]

    def one_series(self, uid: str) -> Series | None:
        """Series of a UID, regardless of the filters; None: no such series."""
        with self._request("query of a series") as client:
            found = client.search_for_series(search_filters={"SeriesInstanceUID": uid}, fields=_FIELDS)
            return next((series for series in _usable(found, _series) if series.uid == uid), None)

    def _pages(self, query: dict[str, str]) -> Iterator[Series]:
        seen: set[str] = set()
        while True:
            with self._request("list of series") as client:
                page = client.search_for_series(
                    limit=PAGE, offset=len(seen), fields=_FIELDS, search_filters=query or None
                )
                found = _usable(page, _series)
            fresh = [series for series in found if series.uid not in seen]
            yield from fresh
            seen |= {series.uid for series in fresh}
            if len(page) < SHORT_PAGE or not fresh:
                return

    def instances(self, study: str, series: str) -> list[Instance]:
        """Instances of a series, sorted by instance number."""
        with self._request("list of images") as client:
            items = client.search_for_instances(study, series, fields=("NumberOfFrames", "InstanceNumber"))
            return sorted(_usable(items, _instance), key=lambda i: (i.number, i.uid))

    # ---- objects ----

    def fetch_series(self, study: str, series: str, folder: Path) -> int:
        """Write all images of a series to a folder; returns their number."""
        with self._request("retrieval of a series", images=True) as client:
            count = 0
            for image in client.iter_series(study, series, media_types=AS_STORED):
                _require(image, "SeriesInstanceUID", series)
                _save(image, folder)
                count += 1
            return count

    def fetch_instance(self, study: str, series: str, uid: str, folder: Path) -> Path:
        """Write one image or SEG to a folder; returns its path."""
        with self._request("retrieval of an image", images=True) as client:
            image = client.retrieve_instance(study, series, uid, media_types=AS_STORED)
            _require(image, "SOPInstanceUID", uid)
            return _save(image, folder)

    def store(self, instance: Dataset) -> None:
        """Store one instance. Returns only if the PACS confirms it.

        Raises:
            Refused: the PACS refuses the instance. Unavailable: no valid confirmation.
        """
        uid = str(instance.SOPInstanceUID)
        with self._request("storage of a segmentation", images=True) as client:
            response = client.store_instances([instance], str(instance.StudyInstanceUID))
            stored = {str(item.ReferencedSOPInstanceUID) for item in response.get("ReferencedSOPSequence") or []}
            failed = [int(item.get("FailureReason", 0)) for item in response.get("FailedSOPSequence") or []]
            if failed and _DUPLICATE not in failed:
                reasons = ", ".join(f"0x{reason:04x}" for reason in failed)
                raise Refused(f"PACS {self.url} refuses to store {uid}: failure reason {reasons}")
            if uid not in stored and not failed:
                raise ValueError("the response does not confirm that the instance is stored")

    # ---- requests ----

    @contextmanager
    def _request(self, description: str, images: bool = False) -> Iterator[Any]:
        """Client for one request; its errors become ``Unavailable``.

        Args:
            description: what is requested, for messages.
            images: whether images are transferred, which may take longer.
        """
        timeouts = IMAGE_TIMEOUTS if images else LIST_TIMEOUTS
        self._local.end = time.monotonic() + timeouts * self.settings.timeout
        try:
            yield self._client()
        except requests.HTTPError as error:
            response = error.response
            text = f" {response.text[:200].strip()}" if response is not None and response.text else ""
            status = response.status_code if response is not None else 0
            kind = Refused if 400 <= status < 500 and status not in (408, 429) else Unavailable
            raise kind(f"PACS {self.url}: {description}: {error}{text}") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            raise Unavailable(f"no response from PACS {self.url} ({description}): {_short(error)}") from error
        except Unavailable:
            raise
        except OSError as error:
            if not isinstance(error, requests.RequestException):
                raise  # error of the local disk
            raise Unavailable(f"PACS {self.url}: {description}: {_short(error)}") from error
        except Exception as error:  # parsers raise any kind of error
            raise Unavailable(f"invalid response from PACS {self.url} ({description}): {_short(error)}") from error

    def _client(self) -> Any:
        if not hasattr(self._local, "client"):
            client = DICOMwebClientX(
                url=self.url,
                session=self._session(),
                qido_url_prefix=host.MONAI_LABEL_QIDO_PREFIX,
                wado_url_prefix=host.MONAI_LABEL_WADO_PREFIX,
                stow_url_prefix=host.MONAI_LABEL_STOW_PREFIX,
                permissive_uid=True,
                timeout=(CONNECT_SECONDS, self.settings.timeout),
            )
            client.set_http_retry_params(retry=False)  # callers repeat requests, and report the state meanwhile
            self._local.client = client
        return self._local.client

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.auth = self.settings.login
        session.send = _bounded(session.send, lambda: self._local.end)  # type: ignore[method-assign]
        return session


def _bounded(send: Callable[..., Any], end: Callable[[], float]) -> Callable[..., Any]:
    """``Session.send`` with a limit on the duration of a response: the timeout of requests restarts with each read.

    Args:
        send: method of the session.
        end: returns the latest end (``time.monotonic``).
    """

    def bounded(request: requests.PreparedRequest, **options: Any) -> requests.Response:
        stream = options.pop("stream", False)
        # The client's header has no port; a PACS uses the header for its links.
        request.headers.pop("Host", None)
        response: requests.Response = send(request, stream=True, **options)

        def iter_content(chunk_size: int = 1, decode_unicode: bool = False) -> Iterator[bytes]:
            while chunk := response.raw.read1(1 << 16, decode_content=True):
                if time.monotonic() > end():
                    response.close()
                    raise requests.Timeout("the response takes too long")
                yield chunk

        response.iter_content = iter_content  # type: ignore[method-assign, assignment]
        if not stream:
            _ = response.content  # read now, with the limit above
        return response

    return bounded


_Item = TypeVar("_Item")


def _usable(items: Any, read: Callable[[dict[str, Any]], _Item]) -> list[_Item]:
    """Valid items of a list; an invalid item is logged and skipped, but a list without valid items is an error."""
    found, error = [], None
    for item in items:
        try:
            found.append(read(item))
        except Exception as fault:
            logger.warning("an invalid item in a list of the PACS is skipped: %s", _short(fault))
            error = fault
    if error is not None and not found:
        raise error
    return found


def _series(item: dict[str, Any]) -> Series:
    data = Dataset.from_json(item)
    facts = {key: str(data.get(key, "") or "") for key in (*_FIELDS, "Modality")}
    images = int(facts.pop("NumberOfSeriesRelatedInstances") or 0)
    return Series(_uid(data, "StudyInstanceUID"), _uid(data, "SeriesInstanceUID"), facts["Modality"], images, facts)


def _instance(item: dict[str, Any]) -> Instance:
    data = Dataset.from_json(item)
    return Instance(
        _uid(data, "SOPInstanceUID"), int(data.get("InstanceNumber") or 0), int(data.get("NumberOfFrames") or 1)
    )


def _uid(data: Dataset, keyword: str) -> str:
    """Validated UID, which becomes part of a path; components with leading zeros exist, although DICOM forbids them."""
    uid = str(data.get(keyword) or "")
    if not _UID.fullmatch(uid):
        raise ValueError(f"{keyword} {uid[:80]!r} is no UID")
    return uid


def _require(image: Dataset, keyword: str, expected: str) -> None:
    if str(image.get(keyword)) != expected:
        raise ValueError(f"requested {keyword} {expected}, received {image.get(keyword)}")


def _save(image: Dataset, folder: Path) -> Path:
    path = folder / f"{_uid(image, 'SOPInstanceUID')}.dcm"
    image.save_as(path)
    return path


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
