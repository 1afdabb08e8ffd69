from __future__ import annotations

from pathlib import Path

import pytest

from samstudent.errors import NotFound, UserError
from samstudent.sam import lite_medsam
from samstudent.sam.registry import load_backend
from samstudent.task import SamSection


def test_load_backend_returns_the_packaged_model() -> None:
    backend = load_backend(SamSection(), "cpu")
    assert (backend.name, backend.digest) == ("lite_medsam", lite_medsam.SHA256)


def test_weights_with_another_digest_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "lite_medsam.pth"
    file.write_bytes(lite_medsam.checkpoint().read_bytes()[:-1])
    monkeypatch.setattr(lite_medsam, "checkpoint", lambda: file)
    with pytest.raises(UserError, match=r"lite_medsam\.pth: its SHA-256"):
        load_backend(SamSection())


def test_missing_checkpoint_and_wrong_digest_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sam_vit_b.pth"
    with pytest.raises(NotFound, match=r"sam_vit_b\.pth: no such file"):
        load_backend(SamSection(backend="vit_b", checkpoint=file))
    file.write_bytes(b"something")
    with pytest.raises(UserError, match=r"sam_vit_b\.pth: its SHA-256 is 3fc9b6.* expected 0000"):
        load_backend(SamSection(backend="vit_b", checkpoint=file, sha256="0" * 64))
