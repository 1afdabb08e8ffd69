"""Kinds of studies that are refused at the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from monailabel.config import settings

from samstudent.errors import UserError
from samstudent.server.app import SamstudentApp
from samstudent.server.pacs.settings import require_supported


@pytest.mark.parametrize("kind", ["xnat", "XNAT", "dsa"])
def test_xnat_and_dsa_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE", kind)
    (tmp_path / "study").mkdir()
    with pytest.raises(UserError, match=f"MONAI_LABEL_DATASTORE={kind}: .* is not supported"):
        SamstudentApp(str(tmp_path), str(tmp_path / "study"), {"task": "phantom"})


def test_google_cloud_is_refused() -> None:
    with pytest.raises(UserError, match="Google Cloud is not supported"):
        require_supported("", "https://healthcare.googleapis.com/v1/projects/x/dicomWeb")


@pytest.mark.parametrize("studies", ["/data/knees", "http://127.0.0.1:8042/dicom-web"])
def test_folders_and_dicomweb_servers_are_supported(studies: str) -> None:
    require_supported("", studies)
    require_supported("local", studies)
