"""COCO's annotations, written and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from samstudent.errors import UserError
from samstudent.exchange.coco_source import read_coco
from samstudent.imaging.dicom_dx_write import dx_image, save_film
from support.drawn import shapes, small_task, write_png
from support.exchange_study import assert_same, drawn_study, empty_study, export, import_into, run_command

#: A square of 4 x 4 pixels whose first pixel is in row 3 and column 2.
SQUARE = [2, 3, 6, 3, 6, 7, 2, 7]
CATEGORIES = [{"id": 5, "name": "Disk"}, {"id": 9, "name": "square"}, {"id": 10, "name": "ruler"}]


def annotated(folder: Path, annotations: list[dict[str, Any]], name: str = "a.png", **image: Any) -> Path:
    """COCO file of one image of 64 x 64 pixels, and the image in ``images/``."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    write_png(folder / "images" / Path(name).name, shapes(0)[0])
    content = {
        "images": [{"id": 1, "file_name": name, "width": 64, "height": 64, **image}],
        "annotations": [{"id": number, "image_id": 1, **found} for number, found in enumerate(annotations)],
        "categories": CATEGORIES,
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json"


def polygon(category: int = 9, **more: Any) -> dict[str, Any]:
    return {"category_id": category, "segmentation": [SQUARE], "bbox": [2, 3, 4, 4], "iscrowd": 0, **more}


# ---- export ----


@pytest.mark.parametrize("polygons", [False, True])
def test_pycocotools_reads_an_export(tmp_path: Path, polygons: bool) -> None:
    data = drawn_study(tmp_path / "study", overlap=True)
    export(data, tmp_path / "out", "--format", "coco", *["--polygons"] * polygons)
    found = {}
    for path in (tmp_path / "out" / "annotations").glob("instances_*.json"):
        coco: Any = COCO(path)
        for image in coco.dataset["images"]:
            masks = np.zeros((2, 48, 64), dtype=bool)
            for annotation in coco.imgToAnns[image["id"]]:
                assert isinstance(annotation["segmentation"], list) == polygons
                mask = coco.annToMask(annotation).astype(bool)
                masks[annotation["category_id"] - 1] = mask
                assert annotation["area"] == mask.sum()
                x, y, width, height = annotation["bbox"]
                assert mask[y : y + height, x : x + width].sum() == mask.sum()
            found[Path(image["file_name"]).stem] = masks
            assert (tmp_path / "out" / "images" / image["file_name"]).is_file()
        assert [category["name"] for category in coco.dataset["categories"]] == ["disk", "square"]
    labels = data.labels()
    assert sorted(found) == sorted(labels)
    assert all((found[case] == label.masks).all() for case, label in labels.items())


def test_polygons_come_back_to_the_pixel(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study")
    masks = data.labels()["c0"].masks
    y, x = np.nonzero(masks[0])
    masks[0, int(y.mean()), int(x.mean())] = False
    data.label("c0", masks)
    text = export(data, tmp_path / "out", "--format", "coco", "--polygons")
    assert "masks as run lengths: 1;" in text
    other = empty_study(tmp_path / "other", data.task)
    import_into(other, tmp_path / "out")
    assert_same(other.labels(), data.labels())


def test_dicom_becomes_png_as_it_is_shown(tmp_path: Path) -> None:
    data = empty_study(tmp_path / "study", small_task())
    pixels, masks = shapes(0)
    save_film(dx_image(pixels.astype(np.uint16), "film"), data.folder)
    (film,) = data.images()
    data.label(film, masks)
    export(data, tmp_path / "out", "--format", "coco")
    assert [path.name for path in (tmp_path / "out" / "images").iterdir()] == [f"{film}.png"]
    other = empty_study(tmp_path / "other", data.task)
    import_into(other, tmp_path / "out")
    assert_same(other.labels(), data.labels())


def test_coco_holds_no_volumes(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study", depth=3, count=1)
    arguments = ("--studies", data.folder, "--task", data.task_file, "--output", tmp_path / "out")
    code, text = run_command("export", "data", *arguments, "--format", "coco")
    assert code == 2
    assert "COCO holds images" in text


# ---- import ----


def test_polygons_and_run_lengths_are_united(tmp_path: Path) -> None:
    rle = {"category_id": 9, "segmentation": {"size": [64, 64], "counts": [0, 2, 64 * 64 - 2]}, "iscrowd": 1}
    path = annotated(tmp_path / "c", [polygon(), rle, polygon(5), polygon(10)])
    data = empty_study(tmp_path / "study", small_task(overlap=True))
    report = import_into(data, path)
    masks = data.labels()["a"].masks
    expected = np.zeros((64, 64), dtype=bool)
    expected[3:7, 2:6] = True
    assert (masks[0] == expected).all()
    expected[:2, 0] = True
    assert (masks[1] == expected).all()
    assert report["left_out"] == {"ruler": 1}
    assert report["cases"]["a"]["left_out"] == {"ruler": 1}


def test_overlap_that_the_task_forbids_is_resolved_and_reported(tmp_path: Path) -> None:
    larger = {"category_id": 5, "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]]}
    data = empty_study(tmp_path / "study", small_task())
    report = import_into(data, annotated(tmp_path / "c", [polygon(), larger]))
    masks = data.labels()["a"].masks
    assert [int(mask.sum()) for mask in masks] == [400 - 16, 16]
    assert "a: pixels of several structures: 16;" in report["text"]


def test_a_structure_with_a_box_only_is_not_annotated(tmp_path: Path) -> None:
    box = {"category_id": 5, "bbox": [2, 3, 4, 4], "segmentation": []}
    data = empty_study(tmp_path / "study", small_task())
    report = import_into(data, annotated(tmp_path / "c", [polygon(), box]))
    assert data.labels()["a"].annotated.tolist() == [False, True]
    assert report["cases"]["a"]["not_annotated"] == ["disk"]


def test_what_an_annotation_does_not_mention(tmp_path: Path) -> None:
    """Absent, unless the task or the file says otherwise."""
    path = annotated(tmp_path / "c", [polygon()])
    absent = empty_study(tmp_path / "absent", small_task())
    import_into(absent, path)
    assert absent.labels()["a"].annotated.all()
    unknown = empty_study(tmp_path / "unknown", small_task(unmentioned="unknown"))
    import_into(unknown, path)
    assert unknown.labels()["a"].annotated.tolist() == [False, True]
    left_open = empty_study(tmp_path / "open", small_task())
    import_into(left_open, annotated(tmp_path / "l", [polygon()], not_exhaustive_category_ids=[5]))
    assert left_open.labels()["a"].annotated.tolist() == [False, True]


def test_an_image_without_annotations(tmp_path: Path) -> None:
    path = annotated(tmp_path / "c", [])
    data = empty_study(tmp_path / "study", small_task())
    assert import_into(data, path)["counts"] == {"images added": 1}
    assert import_into(data, path, "--empty-is-absent")["counts"] == {"images present": 1, "labels saved": 1}
    assert not data.labels()["a"].masks.any()


def test_images_are_found_beside_in_subfolders_or_in_the_study(tmp_path: Path) -> None:
    path = annotated(tmp_path / "c", [polygon()], name="train/a.png")
    below = tmp_path / "c" / "images" / "default"
    below.mkdir()
    (tmp_path / "c" / "images" / "a.png").rename(below / "a.png")
    data = empty_study(tmp_path / "study", small_task())
    assert import_into(data, path)["counts"]["images added"] == 1
    (below / "a.png").rename(tmp_path / "a.png")
    assert import_into(data, path)["counts"]["images present"] == 1
    other = empty_study(tmp_path / "other", small_task())
    assert (
        "no image 'train/a.png' in the source, and no case 'a' in the study" in import_into(other, path, code=1)["text"]
    )
    assert import_into(other, path, "--images", tmp_path)["counts"]["images added"] == 1


def test_two_images_of_one_name(tmp_path: Path) -> None:
    path = annotated(tmp_path / "c", [polygon()])
    content = json.loads(path.read_text())
    content["images"].append(content["images"][0] | {"id": 2, "file_name": "other/a.png"})
    content["annotations"].append(content["annotations"][0] | {"image_id": 2})
    path.write_text(json.dumps(content))
    report = import_into(empty_study(tmp_path / "study", small_task()), path, code=1)
    assert report["cases"]["a"]["reason"] == "annotated more than once in the source, as a.png, other/a.png; leave one"


def test_an_annotation_that_does_not_fit_its_image(tmp_path: Path) -> None:
    path = annotated(tmp_path / "c", [polygon()], width=60)
    report = import_into(empty_study(tmp_path / "study", small_task()), path, code=1)
    assert "annotated with 60 x 64 pixels (width x height), but the image has 64 x 64" in report["text"]
    path = annotated(tmp_path / "c", [polygon(segmentation={"size": [64, 64], "counts": [3]})])
    report = import_into(empty_study(tmp_path / "study2", small_task()), path, code=1)
    assert "image 'a.png': annotation 0 of 'square': counts add up to 3 pixels; expected 4096" in report["text"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "images: missing or no list"),
        ({"annotations": [3]}, "annotations: missing or no list of objects"),
        ({"annotations": [{"id": 1, "image_id": 1, "category_id": 77}]}, "category_id 77 is not in categories"),
        ({"annotations": [{"id": 1, "image_id": 8, "category_id": 5}]}, "image_id 8 is not in images"),
        ({"annotations": [{"id": 1, "category_id": 5}]}, "image_id: missing"),
        (
            {"images": [{"id": 1, "file_name": "a.png", "width": "64", "height": 64}]},
            "width: expected a number of pixels",
        ),
        ({"images": [{"id": 1, "file_name": "a.png", "width": 10**6, "height": 10**6}]}, "more than the limit"),
        ({"categories": [{"id": 1}]}, "name: missing"),
        (
            {"images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64, "neg_category_ids": 5}]},
            "neg_category_ids: expected a list of category ids, not 5",
        ),
    ],
)
def test_faults_of_a_file(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = annotated(tmp_path, [polygon()])
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        read_coco([path], None)
