"""Phantoms: seeded, overlapping as on a real film, and written as the study folder that the demo reads."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from samstudent import task
from samstudent.demo import phantom
from samstudent.errors import UserError
from samstudent.imaging import labels
from samstudent.imaging.case import read_image


def films(count: int, first: int = 0) -> list[phantom.Radiograph]:
    return [phantom.make_radiograph(np.random.default_rng(seed)) for seed in range(first, first + count)]


def test_film_has_the_documented_form() -> None:
    film = films(1)[0]
    assert film.image.shape == (384, 224)
    assert film.image.dtype == np.uint16
    assert film.masks.shape == (len(phantom.NAMES), 384, 224)
    assert film.masks.dtype == bool


def test_names_are_those_of_the_shipped_task() -> None:
    shipped = task.load_task("phantom")
    assert shipped.names == phantom.NAMES
    assert shipped.overlap


def test_same_seed_same_film_other_seed_other_anatomy() -> None:
    first, again, other = films(1)[0], films(1)[0], films(1, first=1)[0]
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.masks, again.masks)
    assert (first.masks != other.masks).any(axis=(1, 2)).all()


def test_bones_overlap_on_every_film() -> None:
    for film in films(12):
        shared = film.masks.sum(0) > 1
        assert shared.sum() > 100
        # Not one pair only: several bones take part.
        assert (film.masks & shared).any(axis=(1, 2)).sum() >= 4


def test_bones_are_large_enough_for_sam_and_seldom_missing() -> None:
    # SAM's view is 256 pixels high: two thirds of the film's.
    areas = np.array([film.masks.sum((1, 2)) for film in films(30)]) * (256 / 384) ** 2
    present = areas > 0
    assert present.mean() > 0.97
    assert not present.all()
    assert np.nanmedian(np.where(present, areas, np.nan), axis=0).min() > 250


def test_bone_is_brighter_than_the_soft_tissue_around_it() -> None:
    for film in films(5):
        radius = film.masks[0]
        beside = np.roll(radius, 12, axis=0) & ~film.masks.any(0)
        assert film.image[radius].mean() > film.image[beside].mean()


def test_films_differ_in_exposure_and_noise() -> None:
    stack = [film.image.astype(float) for film in films(12)]
    assert np.std([image.max() for image in stack]) > 2000
    roughness = [np.median(np.abs(np.diff(image[150:330, 60:160], axis=1))) / image.max() for image in stack]
    assert max(roughness) > 1.5 * min(roughness)


@pytest.mark.parametrize("shape", [(384, 224), (256, 160), (192, 112), (300, 300), (64, 64)])
def test_film_of_any_shape_shows_the_whole_wrist(shape: tuple[int, int]) -> None:
    film = phantom.make_radiograph(np.random.default_rng(3), shape)
    assert film.image.shape == shape
    present = film.masks.any(axis=(1, 2))
    assert sum(~present) <= 1  # a child's late bone
    assert set(np.array(phantom.NAMES)[~present]) <= set(phantom.LATE)


def test_too_small_is_refused() -> None:
    with pytest.raises(UserError, match="64 x 64"):
        phantom.make_radiograph(np.random.default_rng(0), (63, 224))


def test_study_on_disk_equals_the_phantoms(tmp_path: Path) -> None:
    ids = phantom.make_study(tmp_path, 4, seed=7, shape=(128, 96))
    assert len(set(ids)) == 4
    shipped = task.load_task("phantom")
    for number, case in enumerate(ids):
        film = phantom.make_radiograph(np.random.default_rng((7, number)), (128, 96))
        image = read_image(tmp_path / "images" / f"{case}.png")
        np.testing.assert_array_equal(image.pixels[0], film.image)
        masks = labels.read_masks(tmp_path / "labels" / f"{case}.seg.nrrd", shipped, image.grid)
        np.testing.assert_array_equal(masks, film.masks)


def test_split_has_the_order_of_training_cases_and_a_hold_out(tmp_path: Path) -> None:
    ids = phantom.make_study(tmp_path, 6, shape=(64, 64), holdout=2)
    with (tmp_path / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ids
    assert sorted(row["train_order"] for row in rows if row["split"] == "train") == ["0", "1", "2", "3"]
    assert [row["train_order"] for row in rows if row["split"] == "val"] == ["", ""]


def test_a_larger_study_begins_with_the_same_films(tmp_path: Path) -> None:
    small = phantom.make_study(tmp_path / "small", 2, seed=3, shape=(64, 64))
    phantom.make_study(tmp_path / "large", 3, seed=3, shape=(64, 64))
    for case in small:
        name = f"images/{case}.png"
        assert (tmp_path / "small" / name).read_bytes() == (tmp_path / "large" / name).read_bytes()


@pytest.mark.parametrize(
    ("cases", "holdout", "wrong"), [(1, None, "at least 2 cases"), (3, 3, "1 to 2"), (3, 0, "1 to 2")]
)
def test_impossible_studies_are_refused(tmp_path: Path, cases: int, holdout: int | None, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        phantom.make_study(tmp_path, cases, holdout=holdout)
