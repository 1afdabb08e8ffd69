"""Optional programs of some tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from samstudent.errors import NotFound
from samstudent.server.pacs.orthanc import find_orthanc


def require_orthanc() -> None:
    try:
        find_orthanc()
    except NotFound as error:
        _missing(str(error))


def require_browser() -> None:
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        _missing("needs a browser: apt-get install chromium chromium-driver")


def require_faketime() -> str:
    """Library that changes the time of day for a process."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        _missing("needs a clock that can be set: apt-get install faketime")
    return str(found[0])


def require_dciodvfy() -> str:
    """David Clunie's checker of DICOM files."""
    found = shutil.which("dciodvfy")
    if not found:
        _missing("needs a checker of DICOM files: apt-get install dicom3tools")
    return found


def require_nginx() -> str:
    """Reverse proxy."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not found:
        _missing("needs a reverse proxy: apt-get install nginx-light")
    return found


def _missing(message: str) -> NoReturn:
    """Skip the test; in CI, fail."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
