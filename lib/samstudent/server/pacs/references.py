"""References to the cases of a PACS: files in the study, and queries of the PACS for a series that is no case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from samstudent.errors import NotFound
from samstudent.server.pacs.client import Pacs
from samstudent.server.pacs.listing import EXTENSION, Reference, films, is_volume, volume
from samstudent.util.files import atomic_write


class ReferenceFiles:
    """References of a study, one file for each case, in place of its images.

    Args:
        folder: returns the folder of the files.
    """

    def __init__(self, folder: Callable[[], str]) -> None:
        self._folder = folder
        #: By case id, with the modification time of the file in ns.
        self._cached: dict[str, tuple[int, Reference]] = {}

    def get(self, case: str) -> Reference | None:
        """Reference of a case; None: it is not a case of the study."""
        path = self._path(case)
        try:
            modified = path.stat().st_mtime_ns
            cached = self._cached.get(case)
            if cached is None or cached[0] != modified:
                cached = self._cached[case] = modified, Reference.from_json(path.read_text())
        except FileNotFoundError:
            return None
        return cached[1]

    def put(self, reference: Reference) -> None:
        """Write the file of a case."""
        atomic_write(self._path(reference.case), reference.to_json())

    def remove(self, case: str) -> None:
        """Remove the file of a case."""
        self._path(case).unlink(missing_ok=True)

    def _path(self, case: str) -> Path:
        return Path(self._folder()) / f"{case}{EXTENSION}"


def query_reference(pacs: Pacs, case: str) -> Reference:
    """Reference to a series of the PACS that is no case of the study: a viewer may open series outside of the filter.

    Args:
        pacs: DICOMweb server.
        case: Series Instance UID.

    Raises:
        NotFound: the PACS has no such series, or the series has several images.
        Unavailable: the PACS does not respond.
    """
    series = pacs.one_series(case)
    if series is None:
        raise NotFound(f"image {case!r} is neither a case of the study nor a series of PACS {pacs.url}")
    if is_volume(series):
        return volume(series)
    found = films(series, pacs.instances(series.study, series.uid), {})
    if len(found) != 1:
        ids = ", ".join(film.case for film in found) or "none with a single frame"
        raise NotFound(f"series {case!r} has {len(found)} images; use the id of one of them: {ids}")
    return found[0]
