"""Unannotated structures and ignored regions, in each form of a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
from PIL import Image

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks, read_label
from samstudent.imaging.grid import Grid
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import other_names
from samstudent.imaging.structure_names import IGNORE
from samstudent.task import Task

GRID = Grid.of((6, 8), np.eye(4))
NERVE, VESSEL = np.zeros((2, 6, 8), bool)
NERVE[1:3, 1:4] = True
VESSEL[3:5, 4:7] = True
KNOWN, UNKNOWN = np.zeros((6, 8), bool), np.ones((6, 8), bool)


def task(**others: Any) -> Task:
    size = {"student": {"size": [64, 64]}}
    return Task.model_validate({"name": "t", "dimension": 2, "structures": ["nerve", "vessel"], **size, **others})


def segments(path: Path, named: dict[str, np.ndarray]) -> Path:
    """A .seg.nrrd as written by 3D Slicer: all segments in the header, also empty ones; here one layer each."""
    header: dict[str, Any] = {
        "space": "left-posterior-superior",
        "space origin": [0, 0, 0],
        "kinds": ["list", *["domain"] * 3],
    }
    header["space directions"] = np.vstack([np.full(3, np.nan), np.diag([1.0, 1.0, 1.0])])
    for number, name in enumerate(named):
        header |= {f"Segment{number}_ID": f"Segment_{number + 1}", f"Segment{number}_Name": name}
        header |= {f"Segment{number}_Layer": str(number), f"Segment{number}_LabelValue": "1"}
    data = np.stack([mask.T[..., None] for mask in named.values()]).astype(np.uint8)
    nrrd.write(str(path), data, header)
    return path


def label_map(path: Path, *masks: np.ndarray) -> Path:
    values = np.zeros((6, 8), np.uint8)
    for value, mask in enumerate(masks, 1):
        values[mask] = value
    if path.name.endswith(".nii.gz"):
        nibabel.save(nibabel.Nifti1Image(values.T[..., None], np.diag([-1, -1, 1, 1])), path)
    else:
        Image.fromarray(values).save(path)
    return path


def check(label: LabelledMasks, masks: list[np.ndarray], unknown: list[np.ndarray] | None) -> None:
    assert (label.masks == np.stack(masks)).all()
    if unknown is None:
        assert label.unknown is None and label.annotated.all() and label.ignore is None
    else:
        assert label.unknown is not None and (label.unknown == np.stack(unknown)).all()


@pytest.mark.parametrize("name", ["ignore:vessel", "Ignore: Vessel ", "IGNORE:vessel"])
def test_empty_ignore_segment_marks_the_structure_as_unannotated(tmp_path: Path, name: str) -> None:
    path = segments(tmp_path / "a.seg.nrrd", {"nerve": NERVE, name: KNOWN})
    label = read_label(path, task(), GRID)
    check(label, [NERVE, KNOWN], [KNOWN, UNKNOWN])
    assert label.annotated.tolist() == label.complete.tolist() == [True, False] and label.ignore is None
    assert other_names(path, task()) == set(), "it is not left out"


def test_mask_of_an_unannotated_structure_is_ignored(tmp_path: Path) -> None:
    path = segments(tmp_path / "a.seg.nrrd", {"nerve": NERVE, "vessel": VESSEL, "ignore:vessel": KNOWN})
    check(read_label(path, task(), GRID), [NERVE, KNOWN], [KNOWN, UNKNOWN])


def test_ignore_segment_marks_a_region(tmp_path: Path) -> None:
    region = np.roll(VESSEL, 1, axis=1)
    path = segments(tmp_path / "a.seg.nrrd", {"nerve": NERVE, "vessel": VESSEL, "ignore:vessel": region})
    label = read_label(path, task(), GRID)
    check(label, [NERVE, VESSEL & ~region], [KNOWN, region])
    assert label.annotated.all() and label.complete.tolist() == [True, False]
    assert label.ignore is not None and (label.ignore[1] == region).all()
    assert (label.known_part(np.stack([UNKNOWN, UNKNOWN])) == np.stack([UNKNOWN, ~region])).all()


@pytest.mark.parametrize("extension", [".png", ".nii.gz"])
def test_label_info_marks_structures_by_name(tmp_path: Path, extension: str) -> None:
    path = label_map(tmp_path / f"a{extension}", NERVE, VESSEL)
    grid = GRID if extension == ".png" else Grid.of((1, 6, 8), np.diag([-1.0, -1, 1, 1]))
    # The value of the marked name has pixels: a region.
    check(read_label(path, task(), grid, names=["nerve", "ignore:vessel"]), [NERVE, KNOWN], [KNOWN, VESSEL])
    path = label_map(tmp_path / f"b{extension}", NERVE)
    check(read_label(path, task(), grid, names=["nerve", "ignore:vessel"]), [NERVE, KNOWN], [KNOWN, UNKNOWN])
    check(read_label(path, task(), grid, names=["nerve", "ignore:bone"]), [NERVE, KNOWN], None)
    assert other_names(path, task(), ["nerve", "ignore:vessel", "ignore:bone"]) == {"ignore:bone"}


def test_label_with_an_ignored_region_only_is_read(tmp_path: Path) -> None:
    path = label_map(tmp_path / "a.png", VESSEL)
    check(read_label(path, task(), GRID, names=["ignore:vessel"]), [KNOWN, KNOWN], [KNOWN, VESSEL])
    path = segments(tmp_path / "a.seg.nrrd", {"ignore:vessel": VESSEL})
    check(read_label(path, task(), GRID), [KNOWN, KNOWN], [KNOWN, VESSEL])
    with pytest.raises(UserError, match="none of its structures"):
        read_label(segments(tmp_path / "b.seg.nrrd", {"ignore:bone": VESSEL}), task(), GRID)


@pytest.mark.parametrize("word", ["absent", "unknown"])
def test_task_defines_unmentioned_structures(tmp_path: Path, word: str) -> None:
    other = UNKNOWN if word == "unknown" else KNOWN
    expected = [KNOWN, other] if word == "unknown" else None
    unsaid = task(unmentioned=word)
    check(read_label(label_map(tmp_path / "a.png", NERVE), unsaid, GRID), [NERVE, KNOWN], expected)
    check(read_label(tmp_path / "a.png", unsaid, GRID, names=["nerve"]), [NERVE, KNOWN], expected)
    check(read_label(tmp_path / "a.png", unsaid, GRID, bits=True), [NERVE, KNOWN], expected)
    path = segments(tmp_path / "a.seg.nrrd", {"nerve": NERVE})
    check(read_label(path, unsaid, GRID), [NERVE, KNOWN], expected)
    # Mentioned, with or without pixels.
    check(read_label(tmp_path / "a.png", unsaid, GRID, names=["nerve", "Vessel"]), [NERVE, KNOWN], None)
    path = segments(tmp_path / "b.seg.nrrd", {"nerve": NERVE, "vessel": KNOWN})
    check(read_label(path, unsaid, GRID), [NERVE, KNOWN], None)
    # What this product writes mentions every structure where the format can.
    write_masks(tmp_path / "c.seg.nrrd", np.stack([NERVE, KNOWN]), unsaid, GRID)
    check(read_label(tmp_path / "c.seg.nrrd", unsaid, GRID), [NERVE, KNOWN], None)


def test_unmentioned_can_differ_by_structure(tmp_path: Path) -> None:
    path = label_map(tmp_path / "a.png")
    check(read_label(path, task(unmentioned={"vessel": "unknown"}), GRID), [KNOWN, KNOWN], [KNOWN, UNKNOWN])
    with pytest.raises(ValueError, match="unmentioned names unknown structures"):
        task(unmentioned={"bone": "unknown"})


def test_ignore_prefix_is_fixed() -> None:
    assert IGNORE == "ignore:"
