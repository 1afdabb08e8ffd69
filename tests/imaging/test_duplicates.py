from __future__ import annotations

from pathlib import Path

from samstudent.imaging.duplicates import duplicates
from samstudent.imaging.folder import list_folder
from samstudent.imaging.remarks import sentences


def test_equal_content_is_reported(tmp_path: Path) -> None:
    (tmp_path / "b.png").touch()
    for name in ("a.png", "c.png", "d.png"):
        (tmp_path / name).write_bytes(b"x" * 70_000)
    (tmp_path / "e.png").write_bytes(b"x" * 69_999 + b"y")  # of the same size, and different at the end
    for name in ("empty1.png", "empty2.png"):
        (tmp_path / name).write_bytes(b"")
    files = list_folder(tmp_path).files
    assert sentences(duplicates(files)) == ["c.png, d.png: the same content as a.png"]
    assert duplicates(files, most_alike=3) == []
