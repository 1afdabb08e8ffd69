"""Images that arguments of a command name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from samstudent.errors import Conflict, NotFound
from samstudent.inference.image_list import are_cases, find_images, list_images
from support.dicom_files import save_series
from support.drawn import write_png
from support.drawn_folder import write_volume

PIXELS = np.zeros((4, 4), np.uint8)


class Cases:
    """Study of two cases."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ids(self) -> list[str]:
        return ["c1", "c2"]

    def path(self, case: str) -> Path:
        return self.folder / f"{case}.png"


class Empty(Cases):
    def ids(self) -> list[str]:
        return []


def paths(folder: Path, *arguments: Path | str, dimension: int = 2) -> dict[str, Path]:
    found = find_images([str(argument) for argument in arguments], Cases(folder), dimension)
    return {case: fetch() for case, fetch in found.images.items()}


def test_files_folders_and_cases(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    one, two = write_png(tmp_path / "new" / "a.png", PIXELS), write_png(tmp_path / "new" / "b.PNG", PIXELS)
    (tmp_path / "new" / "notes.txt").write_text("x")
    assert paths(tmp_path, tmp_path / "new") == {"a": one, "b": two}
    assert paths(tmp_path, one, "c2") == {"a": one, "c2": tmp_path / "c2.png"}
    assert paths(tmp_path) == {"c1": tmp_path / "c1.png", "c2": tmp_path / "c2.png"}
    found = find_images([str(tmp_path / "new")], Cases(tmp_path), 2)
    assert len(found.remarks) == 1 and found.remarks[0].startswith(f"{tmp_path}/new/notes.txt: no image by its name")
    assert are_cases(["c1"]) and are_cases([]) and not are_cases(["c1", str(one)])


def test_a_file_takes_precedence_over_a_case_of_this_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c1").mkdir()
    inside = write_png(tmp_path / "c1" / "a.png", PIXELS)
    assert {case: path.resolve() for case, path in paths(tmp_path, "c1").items()} == {"a": inside}


def test_folder_without_images_unknown_names_and_equal_ids_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    with pytest.raises(NotFound, match=r"empty: no image in this folder: expected \.nii\.gz"):
        paths(tmp_path, tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").write_text("")
    with pytest.raises(NotFound, match=r"no image in this folder: a\.txt: no image by its name"):
        paths(tmp_path, tmp_path / "empty")
    with pytest.raises(NotFound, match="c3: no such file or folder, and no case of the study"):
        paths(tmp_path, "c3")
    with pytest.raises(NotFound, match="the study has no case"):
        find_images([], Empty(tmp_path), 2)
    one, two = write_png(tmp_path / "a.png", PIXELS), write_png(tmp_path / "other" / "a.png", PIXELS)
    with pytest.raises(Conflict, match=r"image 'a' is also in .*/a\.png"):
        paths(tmp_path, one, two)


def test_folder_of_dicom_slices_is_one_volume(tmp_path: Path) -> None:
    series = save_series(tmp_path / "ct", [0.0, 1.0, 2.0])
    for file in series.iterdir():
        file.rename(file.with_suffix(""))  # names as on a CD
    assert list_images(series, 3).files == {"ct": series}


def test_subfolders_of_dicom_slices_are_volumes(tmp_path: Path) -> None:
    (tmp_path / "patient").mkdir()
    deep = save_series(tmp_path / "patient" / "s1", [0.0, 1.0])
    flat = save_series(tmp_path / "s2", [0.0, 1.0])
    write_volume(tmp_path / "mr.nii.gz", np.zeros((3, 4, 5), np.uint8))
    listed = list_images(tmp_path, 3)
    assert listed.files == {"mr": tmp_path / "mr.nii.gz", "patient_s1": deep, "s2": flat}
    assert not listed.remarks
    (tmp_path / "patient_s1").mkdir()
    save_series(tmp_path / "patient_s1", [0.0, 1.0])
    (remark,) = list_images(tmp_path, 3).remarks
    assert (remark.name, remark.is_fault) == ("patient_s1", True) and "'patient_s1'" in remark.text


def test_in_2d_each_dicom_file_is_an_image(tmp_path: Path) -> None:
    series = save_series(tmp_path / "films", [0.0, 1.0])
    assert sorted(list_images(series, 2).files) == ["0", "1"]
