"""Export of a study and import into another: the same masks to the pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.exchange_study import assert_same, drawn_study, empty_study, export, import_into


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(
    ("format", "depth"),
    [("nnunet", 0), ("nnunet", 5), ("coco", 0), ("experiment", 0), ("experiment", 5)],
)
def test_round_trip_keeps_every_pixel(tmp_path: Path, format: str, depth: int, overlap: bool) -> None:
    data = drawn_study(tmp_path / "study", overlap=overlap, depth=depth)
    export(data, tmp_path / "out", "--format", format)
    source = next((tmp_path / "out").glob("Dataset*"), tmp_path / "out")
    other = empty_study(tmp_path / "other", data.task)
    report = import_into(other, source)
    assert report["counts"] == {"images added": 4, "labels saved": 3}
    assert_same(other.labels(), data.labels())
    assert other.images() == data.images()
    if overlap:
        assert any((label.masks.sum(0) > 1).any() for label in other.labels().values())


def test_import_into_the_study_itself_changes_nothing(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study", overlap=True)
    for format in ("nnunet", "coco", "experiment"):
        export(data, tmp_path / format, "--format", format)
        source = next((tmp_path / format).glob("Dataset*"), tmp_path / format)
        assert import_into(data, source)["counts"] == {"images present": 4, "labels unchanged": 3}


@pytest.mark.parametrize("format", ["coco", "experiment"])
def test_unknown_structures_and_regions_stay_unknown(tmp_path: Path, format: str) -> None:
    data = drawn_study(tmp_path / "study")
    masks = data.labels()["c0"].masks
    unknown = np.zeros_like(masks)
    unknown[0] = True
    data.label("c0", masks, unknown)
    unknown = np.zeros_like(masks)
    unknown[1, :10] = True
    data.label("c1", masks, unknown)
    data.label("c2", np.zeros_like(masks))
    export(data, tmp_path / "out", "--format", format)
    other = empty_study(tmp_path / "other", data.task)
    import_into(other, tmp_path / "out")
    assert_same(other.labels(), data.labels())


def test_test_cases_stay_test_cases(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study")
    (data.folder / "split.csv").write_text("id,split\nc1,test\n")
    for format in ("nnunet", "coco", "experiment"):
        export(data, tmp_path / format, "--format", format)
        source = next((tmp_path / format).glob("Dataset*"), tmp_path / format)
        other = empty_study(tmp_path / f"other-{format}", data.task)
        report = import_into(other, source)
        assert "test cases: 1, listed in" in report["text"]
        assert other.opened()[0].holdout.excluded == {"c1"}
        assert_same(other.labels(), data.labels())
