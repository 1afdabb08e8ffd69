"""nnU-Net's raw format, written and read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from samstudent.errors import UserError
from samstudent.exchange.nnunet_source import read_nnunet
from samstudent.imaging.case import read_image
from samstudent.research.folder import open_folder
from support.drawn import shapes, small_task, write_png
from support.drawn_folder import write_volume
from support.exchange_study import DrawnData, drawn_study, empty_study, export, import_into, run_command


def dataset(folder: Path, **content: Any) -> Path:
    """Data set of two cases of the drawn shapes, b without a label."""
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    for seed, case in enumerate("ab"):
        pixels, masks = shapes(seed)
        write_png(folder / ("imagesTr" if case == "a" else "imagesTs") / f"{case}_0000.png", pixels)
        if case == "a":
            write_png(folder / "labelsTr" / "a.png", (masks[0] + 2 * masks[1]).astype(np.uint8))
    described = {
        "channel_names": {"0": "image"}, "labels": {"background": 0, "disk": 1, "square": 2}, "numTraining": 1,
        "file_ending": ".png",
    } | content  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def exported(data: DrawnData, tmp_path: Path, *options: str) -> tuple[Path, dict[str, Any], str]:
    """Folder of an export, its dataset.json, and what was printed."""
    text = export(data, tmp_path / "raw", "--format", "nnunet", *options)
    (folder,) = (tmp_path / "raw").iterdir()
    content: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
    return folder, content, " ".join(text.split())


# ---- export ----


def test_export_of_exclusive_structures(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study")
    folder, content, text = exported(data, tmp_path)
    assert folder.name == "Dataset001_drawn"
    assert content["labels"] == {"background": 0, "disk": 1, "square": 2}
    assert content["channel_names"] == {"0": "image"}
    assert (content["file_ending"], content["numTraining"]) == (".png", 3)
    assert "regions_class_order" not in content
    names = {part: sorted(p.name for p in (folder / part).iterdir()) for part in ("imagesTr", "labelsTr", "imagesTs")}
    assert names["imagesTr"] == ["c0_0000.png", "c1_0000.png", "c2_0000.png"]
    assert names["labelsTr"] == ["c0.png", "c1.png", "c2.png"]
    assert names["imagesTs"] == ["u_0000.png"]
    masks = data.labels()["c1"].masks
    assert (np.asarray(Image.open(folder / "labelsTr" / "c1.png")) == masks[0] + 2 * masks[1]).all()
    own, copy = (np.asarray(Image.open(path)) for path in (data.folder / "c1.png", folder / "imagesTr" / "c1_0000.png"))
    assert (own == copy).all()
    assert "nnUNetv2_plan_and_preprocess -d 1" in text


def test_export_of_overlapping_structures_as_regions(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study", overlap=True)
    folder, content, text = exported(data, tmp_path)
    assert content["labels"] == {"background": 0, "disk": [1, 3], "square": [2, 3]}
    assert content["regions_class_order"] == [1, 2]
    assert "disk and square" in text
    assert "--save_probabilities" in text
    values = np.asarray(Image.open(folder / "labelsTr" / "c0.png"))
    masks = data.labels()["c0"].masks
    assert ((values == 3) == masks.all(0)).all()


def test_export_of_volumes_keeps_the_file_and_names_ct(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study", depth=4)
    folder, content, _ = exported(data, tmp_path)
    # The task has a fixed window, which only CT has.
    assert content["channel_names"] == {"0": "CT"}
    assert (folder / "imagesTr" / "c0_0000.nii.gz").read_bytes() == (data.folder / "c0.nii.gz").read_bytes()
    label: Any = nibabel.load(folder / "labelsTr" / "c0.nii.gz")
    image: Any = nibabel.load(data.folder / "c0.nii.gz")
    assert label.header.get_zooms() == image.header.get_zooms()
    assert (label.affine == image.affine).all()


def test_channel_name_of_an_export(tmp_path: Path) -> None:
    _, content, _ = exported(drawn_study(tmp_path / "study", count=1), tmp_path, "--channel", "US")
    assert content["channel_names"] == {"0": "US"}


def test_colours_are_channels(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study", count=1, image={"intensity": "window", "low": 0, "high": 255, "channels": 3})
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    write_png(data.folder / "c0.png", colours)
    folder, content, _ = exported(data, tmp_path)
    assert content["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert (np.asarray(Image.open(folder / "imagesTr" / "c0_0000.png")) == colours).all()
    assert np.asarray(Image.open(folder / "imagesTs" / "u_0000.png")).shape == (48, 64, 3)


def test_unknown_pixels_get_the_label_ignore(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study", count=2)
    masks = data.labels()["c0"].masks
    unknown = np.zeros_like(masks)
    unknown[1] = True
    data.label("c0", masks, unknown)
    folder, content, text = exported(data, tmp_path)
    assert content["labels"]["ignore"] == 3
    values = np.asarray(Image.open(folder / "labelsTr" / "c0.png"))
    assert ((values == 1) == masks[0]).all()
    assert ((values == 3) == ~masks[0]).all()
    assert "labels with unknown pixels: 1;" in text
    other = empty_study(tmp_path / "other", data.task)
    import_into(other, folder)
    found = other.labels()["c0"]
    assert (found.masks[0] == masks[0]).all()
    assert found.unknown is not None
    assert (found.unknown[1] == ~masks[0]).all()


def test_a_label_that_would_be_ignored_as_a_whole_is_left_out(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study", overlap=True, count=2)
    masks = data.labels()["c0"].masks
    unknown = np.zeros_like(masks)
    unknown[1] = True
    data.label("c0", masks, unknown)
    arguments = ("--studies", data.folder, "--task", data.task_file, "--output", tmp_path / "raw")
    code, text = run_command("export", "data", *arguments, "--format", "nnunet")
    assert code == 1
    assert "left out c0: a structure is not annotated" in text
    assert sorted(p.name for p in (tmp_path / "raw" / "Dataset001_drawn" / "imagesTr").iterdir()) == ["c1_0000.png"]


def test_next_number_of_a_data_set(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study", count=1)
    (tmp_path / "raw" / "Dataset007_other").mkdir(parents=True)
    export(data, tmp_path / "raw", "--format", "nnunet")
    assert (tmp_path / "raw" / "Dataset008_drawn" / "dataset.json").is_file()
    export(data, tmp_path / "Dataset123_mine", "--format", "nnunet")
    assert (tmp_path / "Dataset123_mine" / "dataset.json").is_file()


# ---- import ----


def test_import_of_labelled_and_unlabelled_cases(tmp_path: Path) -> None:
    data = empty_study(tmp_path / "study", small_task())
    report = import_into(data, dataset(tmp_path / "d"))
    assert report["counts"] == {"images added": 2, "labels saved": 1}
    assert data.images() == ["a", "b"]
    assert (data.labels()["a"].masks == shapes(0)[1]).all()


def test_names_that_the_task_does_not_have_are_left_out_and_reported(tmp_path: Path) -> None:
    data = empty_study(tmp_path / "study", small_task(structures=["Square"]))
    report = import_into(data, dataset(tmp_path / "d"))
    assert report["left_out"] == {"disk": 1}
    assert "left out (labels): disk (1)" in report["text"]
    assert (data.labels()["a"].masks[0] == shapes(0)[1][1]).all()


def test_labels_of_nnunet_1_and_of_the_decathlon(tmp_path: Path) -> None:
    """Names by value, no file_ending, and images without the number of a channel."""
    folder = tmp_path / "Task04"
    pixels, masks = shapes(0)
    write_volume(folder / "imagesTr" / "x.nii.gz", np.stack([pixels] * 4))
    write_volume(folder / "labelsTr" / "x.nii.gz", np.stack([(masks[0] + 2 * masks[1]).astype(np.uint8)] * 4))
    (folder / "imagesTr" / "._x.nii.gz").write_bytes(b"of a Mac")
    labels = {"0": "background", "1": "disk", "2": "square"}
    (folder / "dataset.json").write_text(json.dumps({"modality": {"0": "CT"}, "labels": labels}))
    data = empty_study(tmp_path / "study", small_task(dimension=3, student={"size": [32, 32, 32]}))
    assert import_into(data, folder)["counts"] == {"images added": 1, "labels saved": 1}
    assert (data.labels()["x"].masks[1] == masks[1]).all()


def test_files_that_dataset_json_lists(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", dataset={"q": {"images": ["elsewhere/p.png"], "label": "labelsTr/a.png"}})
    (folder / "elsewhere").mkdir()
    shutil.move(folder / "imagesTr" / "a_0000.png", folder / "elsewhere" / "p.png")
    data = empty_study(tmp_path / "study", small_task())
    import_into(data, folder)
    assert sorted(data.labels()) == ["q"]


def channels(folder: Path, names: tuple[str, ...]) -> Path:
    """Data set whose case a has a file for each channel."""
    dataset(folder, channel_names={str(n): name for n, name in enumerate(names)})
    shutil.rmtree(folder / "imagesTs")
    for number in range(len(names)):
        write_png(folder / "imagesTr" / f"a_{number:04}.png", shapes(number)[0])
    return folder


@pytest.mark.parametrize("depth", [0, 3])
def test_three_channels_become_one_image(tmp_path: Path, depth: int) -> None:
    folder = channels(tmp_path / "d", ("T1", "T2", "FLAIR"))
    image = {"intensity": "window", "low": 0, "high": 255, "channels": 3}
    task = small_task(image=image)
    if depth:
        task = small_task(image=image, dimension=3, student={"size": [32, 32, 32]})
        for path in sorted(folder.glob("*/*.png")):
            write_volume(path.with_name(path.stem + ".nii.gz"), np.stack([np.asarray(Image.open(path))] * depth))
        content = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(content | {"file_ending": ".nii.gz"}))
    data = empty_study(tmp_path / "study", task)
    assert import_into(data, folder)["counts"] == {"images added": 1, "labels saved": 1}
    case = read_image(next(data.folder.glob("a.*")))
    expected = np.stack([shapes(number)[0] for number in range(3)])
    assert (case.pixels == (np.stack([expected] * depth, axis=1) if depth else expected)).all()
    assert (data.labels()["a"].masks[0] == shapes(0)[1][0]).all()
    assert import_into(data, folder)["counts"] == {"images present": 1, "labels unchanged": 1}


@pytest.mark.parametrize("dimension", [2, 3])
def test_named_channels_are_imported_and_exported(tmp_path: Path, dimension: int) -> None:
    names = ("T1", "T1c", "T2", "FLAIR")
    source = channels(tmp_path / "d", names)
    student = {"size": [32] * dimension, "network": "unet", "channels": [4, 8]}
    task = small_task(image={"channels": list(names)}, dimension=dimension, student=student)
    depth = [3] if dimension == 3 else []
    if depth:
        for path in sorted(source.glob("*/*.png")):
            write_volume(path.with_name(path.stem + ".nii.gz"), np.stack([np.asarray(Image.open(path))] * 3))
        content = json.loads((source / "dataset.json").read_text())
        (source / "dataset.json").write_text(json.dumps(content | {"file_ending": ".nii.gz"}))
    data = empty_study(tmp_path / "study", task)
    assert import_into(data, source)["counts"] == {"images added": 1, "labels saved": 1}
    assert import_into(data, source)["counts"] == {"images present": 1, "labels unchanged": 1}
    folder, content, _ = exported(data, tmp_path)
    assert content["channel_names"] == {str(number): name for number, name in enumerate(names)}
    for number in range(4):
        pixels = read_image(folder / "imagesTr" / f"a_{number:04}.nii.gz", dimension).pixels[0]
        assert (pixels == np.broadcast_to(shapes(number)[0], (*depth, *shapes(number)[0].shape))).all()
    text = export(data, tmp_path / "e", "--format", "experiment")
    read = open_folder(tmp_path / "e", task=task).case("a").read(task)[0]
    assert read.pixels.shape[0] == 4, text


def test_channels_that_the_task_does_not_have(tmp_path: Path) -> None:
    folder = channels(tmp_path / "d", ("T1", "T2"))
    data = empty_study(tmp_path / "study", small_task())
    report = import_into(data, folder, code=1)
    assert "has 2 channels (a_0000.png, a_0001.png), but the task's image.channels is 1" in report["text"]
    assert data.images() == []
    assert import_into(data, folder, "--channel", "T2")["counts"] == {"images added": 1, "labels saved": 1}
    assert (read_image(data.folder / "a.png").pixels[0] == shapes(1)[0]).all()
    code, text = run_command("import", folder, "--channel", "PD")
    assert code == 2
    assert "--channel PD: expected one of 0 (T1), 1 (T2)" in " ".join(text.split())


def test_a_missing_channel_and_channels_of_other_sizes(tmp_path: Path) -> None:
    folder = channels(tmp_path / "d", ("T1", "T2", "FLAIR"))
    data = empty_study(
        tmp_path / "study", small_task(image={"intensity": "window", "low": 0, "high": 255, "channels": 3})
    )
    write_png(folder / "imagesTr" / "a_0002.png", np.zeros((8, 8), np.uint8))
    assert "channels must be registered" in import_into(data, folder, code=1)["text"]
    (folder / "imagesTr" / "a_0002.png").unlink()
    assert "has 2 files of 3 channels (T1, T2, FLAIR)" in import_into(data, folder, code=1)["text"]


def test_a_value_that_dataset_json_does_not_have(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    write_png(folder / "labelsTr" / "a.png", np.full((64, 64), 9, np.uint8))
    data = empty_study(tmp_path / "study", small_task())
    report = import_into(data, folder, code=1)
    assert "a.png: value 9 is not in labels of" in report["text"]
    assert report["counts"] == {"images added": 1, "images not taken": 1, "labels not taken": 1}
    assert data.images() == ["b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": ["disk"]}, "dataset.json: labels: expected"),
        ({"labels": {"background": 0}}, "names no structure"),
        ({"labels": {"disk": [1, "x"]}}, "labels: expected .*, not 'disk'"),
        ({"channel_names": {}}, "channel_names: expected"),
        ({"file_ending": "png"}, "file_ending: expected an extension"),
        ({"dataset": {"a": {"label": "x"}}}, "dataset: expected"),
    ],
)
def test_faults_of_dataset_json(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_nnunet(dataset(tmp_path / "d", **content))
