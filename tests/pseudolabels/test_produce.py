from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_ignore, read_masks, read_rejected
from samstudent.pseudolabels.cached_sam import CachedSam
from samstudent.pseudolabels.case import binarize, pseudo_label_case, pseudo_label_of
from samstudent.pseudolabels.produce import CaseLabeller, on_image, produce
from samstudent.pseudolabels.provenance import provenance_of
from samstudent.sam.results import Refinement, StructureResult
from samstudent.sam.working_grid import reduced
from support.drawn import FakeSam, FakeStudent, dice, shapes, small_task, write_png

TASK = small_task()
SAM: Any = CachedSam(FakeSam())  # type: ignore[arg-type]


class FolderStore:
    """The host's datastore as far as it is needed: files in folders, infos in memory."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.infos: dict[tuple[str, str], dict[str, Any]] = {}
        self.truths = {}
        for seed in range(count):
            pixels, self.truths[f"c{seed}"] = shapes(seed)
            write_png(folder / f"c{seed}.png", pixels)

    def get_image_uri(self, image_id: str) -> str:
        return str(self.folder / f"{image_id}.png")

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        return {tag: image_id for case, tag in self.infos if case == image_id}

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        return self.infos[label_id, label_tag]

    def label(self, image_id: str, tag: str) -> Path:
        return self.folder / f"{image_id}.{tag}.seg.nrrd"

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        shutil.copy(label_filename, self.label(image_id, label_tag))
        self.infos[image_id, label_tag] = label_info
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        del self.infos[label_id, label_tag]
        self.label(label_id, label_tag).unlink()


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path, 3)


def run(store: FolderStore, student: FakeStudent, sam: FakeSam | None = None, **more: Any) -> Any:
    plain: Any = sam or FakeSam()
    return produce(store, CaseLabeller(TASK, student, CachedSam(plain)), store.truths, **more)


def test_labels_are_made_and_read_back(store: FolderStore) -> None:
    seen: list[tuple[int, int, str]] = []
    counts = run(store, FakeStudent(store.truths), progress=lambda *done: seen.append(done))
    assert (counts.made, counts.current, counts.skipped, counts.failed) == (3, 0, 0, {})
    assert seen == [(1, 3, "c0"), (2, 3, "c1"), (3, 3, "c2")]
    grid = read_image(store.get_image_uri("c0")).grid
    for tag in ("pseudo", "pseudo_raw"):
        masks = read_masks(store.label("c0", tag), TASK, grid)
        assert dice(masks[0], store.truths["c0"][0]) > 0.95
        assert dice(masks[1], store.truths["c0"][1]) > 0.85
        assert not read_ignore(store.label("c0", tag), TASK, grid).any()
    structures = store.infos["c0", "pseudo"]["structures"]
    assert structures["disk"]["status"] == "accepted"
    assert structures["disk"]["predicted_iou"] == pytest.approx(0.9)


def test_what_is_current_is_left_and_what_is_stale_made_anew(store: FolderStore) -> None:
    student = FakeStudent(store.truths)
    run(store, student)
    assert (run(store, student).current, student.asked) == (3, ["c0", "c1", "c2"])
    newer = FakeStudent(store.truths, version="b" * 64)
    assert run(store, newer).made == 3
    assert store.infos["c0", "pseudo"]["provenance"]["student"] == "b" * 64
    store.remove_label("c1", "pseudo_raw")
    counts = run(store, newer)
    assert (counts.made, counts.current) == (1, 2)


def test_humans_and_held_out_cases_get_none_and_lose_theirs(store: FolderStore) -> None:
    run(store, FakeStudent(store.truths))
    store.infos["c0", "final"] = {}
    counts = run(store, FakeStudent(store.truths), exclude={"c1"})
    assert (counts.skipped, counts.current) == (2, 1)
    assert set(store.infos) == {("c0", "final"), ("c2", "pseudo"), ("c2", "pseudo_raw")}


def test_a_broken_image_is_told_and_the_rest_is_done(store: FolderStore) -> None:
    run(store, FakeStudent(store.truths))
    Path(store.get_image_uri("c1")).write_bytes(b"no image")
    counts = run(store, FakeStudent(store.truths, version="b" * 64))
    assert counts.made == 2
    assert list(counts.failed) == ["c1"] and "c1.png" in counts.failed["c1"]
    # Its label of the old student is gone.
    assert ("c1", "pseudo") not in store.infos


def test_a_rejected_structure_is_an_ignored_region(store: FolderStore) -> None:
    # SAM that sees the dim square as nothing: its mask is empty, so nothing agrees.
    run(store, FakeStudent(store.truths), FakeSam(level=130))
    grid = read_image(store.get_image_uri("c0")).grid
    masks = read_masks(store.label("c0", "pseudo"), TASK, grid)
    ignore = read_ignore(store.label("c0", "pseudo"), TASK, grid)
    assert store.infos["c0", "pseudo"]["structures"]["square"]["status"] == "rejected"
    assert masks[0].any() and not masks[1].any()
    assert not ignore[0].any()
    assert (ignore[1] >= store.truths["c0"][1]).all()


def test_a_structure_that_lost_every_pixel_is_not_taught_as_absent() -> None:
    """Whatever is estimated of it: accepted, its empty mask would be the truth."""
    probabilities = np.zeros((2, 8, 8), np.float32)
    probabilities[0, 2:6, 2:6], probabilities[1, 2:4, 2:4] = 0.9, 0.6
    coarse, masks = probabilities > 0.5, probabilities > 0.7
    structures = [
        StructureResult(name, True, [], 0.9, agreement) for name, agreement in (("disk", 0.9), ("square", 0.0))
    ]
    refinement = Refinement(masks, coarse, structures, masks.astype(np.float16))
    estimates = {"disk": 0.8, "square": 0.8}
    label = pseudo_label_of(refinement, probabilities, TASK, provenance_of("v", FakeSam(), TASK), estimates)
    assert [s.status for s in label.structures] == ["accepted", "rejected"]
    assert (label.ignore[1] == coarse[1]).all() and label.soft[1].max() == pytest.approx(0.6, abs=1e-3)


def test_a_rejected_mask_is_kept_for_people_to_look_at(store: FolderStore) -> None:
    task = small_task(pseudo_labels={"threshold": {"square": 1.0}})
    produce(store, CaseLabeller(task, FakeStudent(store.truths), SAM), ["c0"])
    grid, path = read_image(store.get_image_uri("c0")).grid, store.label("c0", "pseudo")
    rejected = read_rejected(path, TASK, grid)
    assert dice(rejected[1], store.truths["c0"][1]) > 0.85 and not rejected[0].any()
    assert not read_masks(path, TASK, grid)[1].any()


def test_without_sam_only_the_students_own_masks_are_made(store: FolderStore) -> None:
    counts = produce(store, CaseLabeller(TASK, FakeStudent(store.truths), None), ["c0"])
    assert counts.made == 1
    assert set(store.infos) == {("c0", "pseudo_raw")}
    assert store.infos["c0", "pseudo_raw"]["structures"] == {
        "disk": {"status": "accepted"},
        "square": {"status": "accepted"},
    }


def test_one_case_on_arrays(store: FolderStore) -> None:
    image = read_image(store.get_image_uri("c0"))
    absent = {"c0": store.truths["c0"] * np.array([True, False])[:, None, None]}
    label = pseudo_label_case(image, FakeStudent(absent), SAM, TASK)
    assert [s.status for s in label.structures] == ["accepted", "absent"]
    assert not label.masks[1].any() and not label.ignore.any()
    assert np.array_equal(label.raw, absent["c0"])


def test_a_label_of_the_working_grid_is_brought_to_the_images(tmp_path: Path) -> None:
    pixels, truth = shapes(0, (256, 192))
    image = read_image(write_png(tmp_path / "large.png", pixels))
    small = reduced(truth, (128, 96))
    other = read_image(write_png(tmp_path / "c0.png", shapes(0)[0]))
    label = pseudo_label_case(other, FakeStudent({"c0": shapes(0)[1]}), SAM, TASK)
    soft = small.astype(np.float16)
    accepted = np.array([True, False])[:, None, None]
    label = replace(label, masks=(soft >= 0.5) & accepted, ignore=(soft >= 0.5) & ~accepted, raw=soft >= 0.5, soft=soft)
    masks, ignore, raw, _ = on_image(label, image, overlap=False)
    assert masks.shape == ignore.shape == raw.shape == truth.shape
    assert dice(masks[0], truth[0]) > 0.98 and not masks[1].any()
    assert dice(ignore[1], truth[1]) > 0.97 and not ignore[0].any()
    assert dice(raw, truth) > 0.97


def test_structures_of_an_enlarged_label_share_no_pixel_where_the_task_forbids_it(tmp_path: Path) -> None:
    """A structure of one pixel is enlarged in a block, the one around it smoothly, over the same pixels."""
    image = read_image(write_png(tmp_path / "large.png", np.zeros((48, 48), np.uint8)))
    other = read_image(write_png(tmp_path / "c0.png", shapes(0)[0]))
    label = pseudo_label_case(other, FakeStudent({"c0": shapes(0)[1]}), SAM, TASK)
    soft = np.full((2, 8, 8), [[[0.0]], [[0.9]]], np.float16)
    soft[:, 3, 3] = 0.55, 0.45
    drawn = soft >= 0.5
    label = replace(label, masks=drawn, ignore=~drawn, raw=drawn, soft=soft)
    masks, _, raw, _ = on_image(label, image, overlap=False)
    assert masks.any(axis=(1, 2)).all() and masks.sum(axis=0).max() == 1 and raw.sum(axis=0).max() == 1
    assert on_image(label, image, overlap=True).masks.sum(axis=0).max() == 2


def test_binarized_masks_take_the_likeliest_including_background() -> None:
    probabilities = np.array([0.45, 0.2, 0.3, 0.6], np.float32).reshape(2, 1, 2)
    assert binarize(probabilities, TASK)[:, 0].tolist() == [[True, False], [False, True]]
    # Background 0.4 is likelier than either of 0.35 and 0.25.
    weak = np.array([0.35, 0.25], np.float32).reshape(2, 1, 1)
    assert not binarize(weak, TASK).any()
    assert binarize(probabilities, small_task(overlap=True))[:, 0].tolist() == [[False, False], [False, True]]
