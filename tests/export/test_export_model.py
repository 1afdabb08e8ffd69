"""Exported files predict the masks of the student: by the script beside them, in TorchScript, and as a MONAI bundle."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle.workflows import ConfigWorkflow
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from samstudent.errors import UserError
from samstudent.export.description import ExportedRound
from samstudent.export.export_model import export_model
from samstudent.imaging.case import CaseImage, read_image
from samstudent.imaging.image_paths import channels_path
from samstudent.student.network import build_network
from samstudent.student.predict import Student, binarize, save_model
from samstudent.student.training import TrainingOptions, train_student
from samstudent.student.training_case import CaseLabel, prepare_case
from samstudent.task import Task
from samstudent.util import device
from support.drawn import case_image, shapes, small_task, training_cases, write_png

ORIGIN = ExportedRound("study", "r0003", {"disk": 0.9, "square": None, "mean": 0.9})
PERCENTILES = {"intensity": "percentile"}
CPU = torch.device("cpu")
#: Pixels of one image whose mask may differ: two runtimes add floats in another order, so that a probability within
#: 1e-5 of the threshold may be on the other side. Measured: none of the images here, 3 of 21 million pixels of 40
#: ultrasound images.
DIFFERENT = 1


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exported network has float32; the product takes bfloat16 where the processor has it."""
    monkeypatch.setattr(device, "half_precision", lambda device: None)


def exported(folder: Path, task: Task, *formats: Any, steps: int = 30) -> tuple[Student, Path]:
    """Student trained for a few steps, and the folder of its export."""
    if task.dimension == 3:
        return exported_untrained(folder, task, *formats)
    model = folder / "source.pt"
    train_student(training_cases(4, task), task, model, TrainingOptions(steps, seed=1, device="cpu"))
    return export_of(model, folder, task, formats)


def exported_untrained(folder: Path, task: Task, *formats: Any) -> tuple[Student, Path]:
    """Student with random weights, and the folder of its export."""
    torch.manual_seed(0)
    save_model(folder / "source.pt", build_network(task), task)
    return export_of(folder / "source.pt", folder, task, formats)


def export_of(model: Path, folder: Path, task: Task, formats: Any) -> tuple[Student, Path]:
    student = Student.load(model, task, "cpu")
    export_model(student, model, ORIGIN, folder / "export", formats)
    return student, folder / "export"


def label_map(student: Student, image: Path | CaseImage) -> NDArray[Any]:
    """Values (*spatial), canonical, of the student's masks."""
    masks = binarize(student.predict(read_image(image) if isinstance(image, Path) else image), student.task)
    return (masks * np.arange(1, len(masks) + 1).reshape(-1, *(1,) * (masks.ndim - 1))).max(axis=0)


def script_of(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("predict_onnx", folder / "predict_onnx.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def different(path: Path, expected: NDArray[Any]) -> int:
    found = np.asarray(Image.open(path))
    assert found.shape == expected.shape and found.any()
    return int((found != expected).sum())


def test_script_gives_the_same_masks_of_images(tmp_path: Path) -> None:
    task = small_task(image=PERCENTILES)
    student, folder = exported(tmp_path, task, "onnx")
    script = script_of(folder)
    for seed, shape in enumerate([(64, 64), (200, 130), (50, 160), (30, 33), (401, 377)]):
        pixels = shapes(seed, shape)[0]
        image = write_png(tmp_path / f"{seed}.png", pixels if seed else pixels.astype(np.uint16) * 200)
        script.main(str(folder / "model.onnx"), str(image), str(tmp_path / "masks.png"))
        assert different(tmp_path / "masks.png", label_map(student, image)) <= DIFFERENT
    colours = write_png(tmp_path / "colours.png", np.stack([pixels, pixels // 2, pixels // 3], axis=-1))
    turned = Image.Exif()
    turned[274] = 6
    Image.open(colours).save(tmp_path / "turned.jpg", exif=turned, quality=95)
    for image in (colours, tmp_path / "turned.jpg"):
        script.main(str(folder / "model.onnx"), str(image), str(tmp_path / "masks.png"))
        assert different(tmp_path / "masks.png", label_map(student, image)) <= DIFFERENT


def test_pixels_of_an_object_have_one_structure_in_exported_files_too(tmp_path: Path) -> None:
    names = [f"tooth_{number}" for number in range(8)]
    task = small_task(structures=names, image=PERCENTILES, student={"network": "unet", "size": [32, 64]})
    noise = np.random.default_rng(0).normal(0, 5, (50, 110))
    masks = np.zeros((8, 50, 110), dtype=bool)
    for number in range(8):
        masks[number, 8:40, 10 + 11 * number : 21 + 11 * number] = True
    pixels = (60 + noise + 90 * np.stack([ndimage.binary_erosion(mask) for mask in masks]).any(axis=0)).astype(np.uint8)
    case = prepare_case("a", case_image(pixels), CaseLabel(masks), task)
    model = tmp_path / "source.pt"
    train_student([case], task, model, TrainingOptions(40, seed=1, device="cpu"))
    student = Student.load(model, task, "cpu")
    export_model(student, model, ORIGIN, tmp_path / "export", ("onnx", "bundle"))
    (tmp_path / "images").mkdir()
    image = write_png(tmp_path / "images" / "a.png", pixels)
    expected = label_map(student, image)
    assert len(np.unique(expected)) >= 8
    files = (tmp_path / "export" / "model.onnx", image, tmp_path / "masks.png")
    script_of(tmp_path / "export").main(*map(str, files))
    assert different(tmp_path / "masks.png", expected) <= DIFFERENT
    run_bundle(tmp_path / "export" / task.name, tmp_path)
    assert different(tmp_path / "masks" / "a.png", expected) <= DIFFERENT


def test_script_needs_neither_samstudent_nor_torch(tmp_path: Path) -> None:
    """Structures that may overlap: one file each. Three channels, although the image is grey."""
    task = small_task(overlap=True, image=PERCENTILES | {"channels": 3})
    student, folder = exported(tmp_path, task, "onnx")
    image = write_png(tmp_path / "a.png", shapes(7, (90, 120), overlap=True)[0])
    code = (
        "import runpy, sys\n"
        "for name in ('samstudent', 'torch', 'monai', 'scipy', 'SimpleITK'): sys.modules[name] = None\n"
        "runpy.run_path('predict_onnx.py', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, "model.onnx", str(image), str(tmp_path / "masks.png")]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    masks = binarize(student.predict(read_image(image)), task)
    for name, mask in zip(task.names, masks, strict=True):
        assert different(tmp_path / f"masks_{name}.png", 255 * mask.astype(np.uint8)) <= DIFFERENT


def scan(folder: Path) -> Path:
    """Volume that is not stored in canonical orientation."""
    affine = np.array([[0, -0.9, 0, 10], [0.8, 0, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
    voxels = np.random.default_rng(0).normal(100, 20, (60, 50, 20)).astype(np.float32)
    path = folder / "images" / "v.nii.gz"
    path.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def test_script_and_bundle_give_the_same_masks_of_volumes(tmp_path: Path) -> None:
    section = {"network": "unet", "size": [16, 32, 32], "channels": [8, 16], "spacing": [2.0, 1.0, 1.0]}
    task = small_task(dimension=3, student=section, image=PERCENTILES)
    student, folder = exported(tmp_path, task, "onnx", "bundle")
    image = scan(tmp_path)
    expected, grid = label_map(student, image), read_image(image).grid
    script_of(folder).main(str(folder / "model.onnx"), str(image), str(tmp_path / "masks.nii.gz"))
    found = nibabel.as_closest_canonical(nibabel.load(tmp_path / "masks.nii.gz"))
    assert int((np.asarray(found.dataobj).transpose(2, 1, 0) != expected).sum()) <= DIFFERENT
    run_bundle(folder / task.name, tmp_path)
    label = nibabel.load(tmp_path / "masks" / "v.nii.gz")
    np.testing.assert_allclose(label.affine, nibabel.load(image).affine)
    values = grid.from_file(np.asarray(label.dataobj).transpose(2, 1, 0))
    assert int((values != expected).sum()) <= DIFFERENT


def run_bundle(root: Path, folder: Path) -> None:
    """What ``python -m monai.bundle run`` does."""
    workflow = ConfigWorkflow(
        config_file=str(root / "configs" / "inference.json"),
        meta_file=str(root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(root),
        dataset_dir=str(folder / "images"),
        output_dir=str(folder / "masks"),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()


@pytest.mark.parametrize("overlap", [False, True])
def test_bundle_gives_the_same_masks_of_images(tmp_path: Path, overlap: bool) -> None:
    task = small_task(overlap=overlap, image=PERCENTILES)
    student, folder = exported(tmp_path, task, "bundle")
    (tmp_path / "images").mkdir()
    pixels = shapes(3, (150, 120))[0]
    images = [write_png(tmp_path / "images" / "grey.png", pixels)]
    images.append(write_png(tmp_path / "images" / "colours.png", np.stack([pixels, pixels // 2, pixels // 3], -1)))
    run_bundle(folder / task.name, tmp_path)
    for image in images:
        if overlap:
            found = np.asarray(nibabel.load(tmp_path / "masks" / f"{image.stem}.nii.gz").dataobj)
            expected = binarize(student.predict(read_image(image)), task).transpose(2, 1, 0)
            assert int((np.squeeze(found) != expected).sum()) <= DIFFERENT
        else:
            assert different(tmp_path / "masks" / image.name, label_map(student, image)) <= DIFFERENT
    metadata = json.loads((folder / task.name / "configs" / "metadata.json").read_text())
    outputs = metadata["network_data_format"]["outputs"]["pred"]
    assert outputs["num_channels"] == len(outputs["channel_def"]) == (2 if overlap else 3)
    assert metadata["version"] == "0.3.0" and metadata["eval_metrics"] == {"mean_dice": 0.9}
    # The bundle's weights can be used here again.
    assert Student.load(folder / task.name / "models" / "model.pt", task).version == student.version


def test_torchscript_of_a_batch(tmp_path: Path) -> None:
    task = small_task(image=PERCENTILES)
    student, folder = exported(tmp_path, task, "torchscript", steps=2)
    network = torch.jit.load(folder / "model.ts")
    paths = [write_png(tmp_path / f"{seed}.png", shapes(seed, (80, 100))[0]) for seed in range(2)]
    images = [read_image(path) for path in paths]
    found = network(torch.stack([torch.from_numpy(image.pixels) for image in images])).numpy()
    assert found.shape == (2, 3, 80, 100)
    for image, probabilities in zip(images, found, strict=True):
        np.testing.assert_allclose(probabilities[1:], student.predict(image), atol=2e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    # With the bounds of an image's own window.
    bounds = torch.tensor([[40.0, 160.0]], dtype=torch.float64)
    assert not np.allclose(network(torch.from_numpy(images[0].pixels)[None], bounds).numpy(), found[:1], atol=1e-3)
    assert sorted(file.name for file in folder.iterdir()) == ["model.json", "model.ts"]


def test_missing_packages_are_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samstudent.export.onnx_file._PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(UserError, match=r"--format onnx needs no_such_package: pip install 'samstudent\[export\]'"):
        exported(tmp_path, small_task(), "onnx", steps=1)
    assert not (tmp_path / "export").exists()


def test_named_channels_have_their_own_ranges_in_images(tmp_path: Path) -> None:
    student_section = {"network": "unet", "size": [64, 64], "channels": [8, 16]}
    task = small_task(image=PERCENTILES | {"channels": {"T1": "-one", "T2": "-two"}}, student=student_section)
    student, folder = exported_untrained(tmp_path, task, "onnx", "torchscript", "bundle")
    files = [tmp_path / "images" / f"a{text}.png" for text in ("-one", "-two")]
    files[0].parent.mkdir()
    write_png(files[0], shapes(1, (80, 100))[0])
    write_png(files[1], 9 * shapes(2, (80, 100))[0].astype(np.uint16) + 500)
    image = read_image(channels_path(files, tmp_path / "images"))
    expected = label_map(student, image)
    script = script_of(folder)
    script.main(str(folder / "model.onnx"), *map(str, files), str(tmp_path / "masks.png"))
    assert different(tmp_path / "masks.png", expected) <= DIFFERENT
    with pytest.raises(SystemExit, match="1 images; expected 2: T1, T2"):
        script.main(str(folder / "model.onnx"), str(files[0]), str(tmp_path / "masks.png"))
    network, pixels = torch.jit.load(folder / "model.ts"), torch.from_numpy(image.pixels)[None]
    np.testing.assert_allclose(network(pixels).numpy()[0, 1:], student.predict(image), atol=2e-5)
    bounds = torch.tensor([[[torch.nan] * 2, [0.0, 255.0]]], dtype=torch.float64)
    windowed = replace(image, windows=(None, (0.0, 255.0)))
    as_auto = Student(student.network, small_task(image={"channels": ["T1", "T2"]}, student=student_section), "", CPU)
    np.testing.assert_allclose(network(pixels, bounds).numpy()[0, 1:], as_auto.predict(windowed), atol=2e-5)
    run_bundle(folder / task.name, tmp_path)
    assert different(tmp_path / "masks" / "a-one.png", expected) <= DIFFERENT


def test_named_channels_have_their_own_ranges_in_volumes(tmp_path: Path) -> None:
    section = {"network": "unet", "size": [16, 32, 32], "channels": [8, 16], "spacing": [2.0, 1.0, 1.0]}
    task = small_task(dimension=3, student=section, image=PERCENTILES | {"channels": ["T1", "T2"]})
    student, folder = exported_untrained(tmp_path, task, "onnx", "bundle")
    stored = nibabel.load(scan(tmp_path))
    first, second = stored.get_fdata(), 3 - stored.get_fdata()[::-1]
    files = [tmp_path / "images" / f"v_{name}.nii.gz" for name in ("T1", "T2")]
    for file, voxels in zip(files, (first, second), strict=True):
        nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), stored.affine), file)
    together = tmp_path / "both.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.stack([first, second], -1).astype(np.float32), stored.affine), together)
    image = read_image(channels_path(files, tmp_path / "images"))
    expected, script = label_map(student, image), script_of(folder)
    for images in (files, [together]):
        script.main(str(folder / "model.onnx"), *map(str, images), str(tmp_path / "masks.nii.gz"))
        found = nibabel.as_closest_canonical(nibabel.load(tmp_path / "masks.nii.gz"))
        values = np.asarray(found.dataobj).transpose(2, 1, 0)
        assert values.any() and int((values != expected).sum()) <= DIFFERENT
    with pytest.raises(SystemExit, match="1 channels; expected 2: T1, T2"):
        script.main(str(folder / "model.onnx"), str(files[0]), str(tmp_path / "masks.nii.gz"))
    run_bundle(folder / task.name, tmp_path)
    label = nibabel.load(tmp_path / "masks" / "v_T1.nii.gz")
    values = image.grid.from_file(np.asarray(label.dataobj).transpose(2, 1, 0))
    assert int((values != expected).sum()) <= DIFFERENT
