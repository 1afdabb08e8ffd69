"""OHIF's files as MONAI Label ships them, with our configuration.

The host's endpoint finds only files of the top folder, and returns the page itself for all others: a picture or a
script that is not found is then HTML.
"""

from __future__ import annotations

import functools
import mimetypes
import os.path
import re
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from fastapi.responses import FileResponse, Response

from samstudent.errors import NotFound

#: Folder of the pages in the host's package; found without importing the host's endpoints.
STATIC = Path(str(find_spec("monailabel").origin)).parent / "endpoints" / "static"  # type: ignore[union-attr]
SHIPPED = STATIC / "ohif"
OURS = {"app-config.js": Path(__file__).parent / "app-config.js"}


#: Start of an address in a text file of OHIF, whose build is for ``/ohif/`` at the root of a host.
_ADDRESS = re.compile(rb"""(?<=["'])/ohif/""")
_TEXTS = frozenset({".html", ".js", ".json"})


def ohif_file(path: str, root: str = "") -> Response:
    """File of OHIF; its page for other paths, which are addresses within the page.

    Args:
        path: below ``/ohif/``.
        root: path of the server behind a proxy, e.g. ``/wrist``.

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
    kind, headers = mimetypes.guess_type(file)[0] or "application/octet-stream", {"Cache-Control": "no-cache"}
    if root and file.suffix in _TEXTS:
        return Response(_below(file, root), media_type=kind, headers=headers)
    return FileResponse(file, media_type=kind, headers=headers)


@functools.cache
def _below(file: Path, root: str) -> bytes:
    """Content of a text file of OHIF with addresses below ``root``; cached, because one of them has 15 MB."""
    return _ADDRESS.sub(root.encode() + b"/ohif/", file.read_bytes())
