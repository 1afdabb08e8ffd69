"""OHIF's files as MONAI Label ships them, with our configuration.

The host's endpoint finds only files of the top folder, and returns the page itself for all others: a picture or a
script that is not found is then HTML.
"""

from __future__ import annotations

import mimetypes
import os.path
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from fastapi.responses import FileResponse, Response

from samstudent.errors import NotFound

#: Folder of the pages in the host's package; found without importing the host's endpoints.
STATIC = Path(str(find_spec("monailabel").origin)).parent / "endpoints" / "static"  # type: ignore[union-attr]
SHIPPED = STATIC / "ohif"
OURS = {"app-config.js": Path(__file__).parent / "app-config.js"}


def ohif_file(path: str) -> Response:
    """File of OHIF; its page for other paths, which are addresses within the page.

    Args:
        path: below ``/ohif/``.

    Raises:
        NotFound: there is no such file.
    """
    requested = PurePosixPath(path)
    if {".", ".."} & set(path.split("/")) or requested.is_absolute() or "\\" in path:
        raise NotFound("no such page")
    file = OURS.get(path, SHIPPED / requested)
    # Not `file.is_file()`, which raises where a name is longer than the disk allows.
    if not os.path.isfile(file):
        if requested.suffix:
            raise NotFound(f"OHIF has no file {path}")
        file = SHIPPED / "index.html"
    # It asks each time whether a file is still the same: an update of this server must not meet pages of the last.
    return FileResponse(
        file,
        media_type=mimetypes.guess_type(file)[0] or "application/octet-stream",
        headers={"Cache-Control": "no-cache"},
    )
