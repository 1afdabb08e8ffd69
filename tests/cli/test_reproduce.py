"""``samstudent reproduce wrist``: its arguments."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from samstudent.cli.main import main
from support.wrist_films import wrist_files


@pytest.mark.parametrize("repeated", [False, True], ids=["files after one option", "an option for each file"])
def test_several_annotation_files(
    tmp_path: Path, repeated: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All are read: the last one is broken."""
    files = wrist_files(tmp_path / "wrist")
    Path(files.annotations[-1]).write_text("<annotations>")
    option = [part for path in files.annotations for part in ("--annotations", str(path))]
    given = option if repeated else ["--annotations", *map(str, files.annotations)]
    command = ["reproduce", "wrist", "--images", str(files.images), *given, "--order", str(files.order)]
    monkeypatch.setattr(sys, "argv", ["samstudent", *command, "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("samstudent: ") and len(error.splitlines()) == 1
    assert "annotations_test.xml: not valid XML: no element found" in error
    assert not (tmp_path / "out").exists()
