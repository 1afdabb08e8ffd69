"""Value of ``--studies``: a folder, or the URL of a PACS."""

from __future__ import annotations

import re


def is_pacs(studies: str) -> bool:
    """Whether ``studies`` is the URL of a DICOMweb server."""
    return studies.startswith(("http://", "https://"))


def slug_of(url: str) -> str:
    """URL of a PACS as the name of a folder."""
    return re.sub(r"\W+", "-", url.split("://", 1)[1]).strip("-")
