"""The exported modules compute what the student computes in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers.inferer import SlidingWindowInferer

from samstudent.export.graph import ImageStudent, VolumeStudent, binary, importance_of, window_starts
from samstudent.export.plain_network import plain_network
from samstudent.imaging.case import CaseImage
from samstudent.imaging.grid import Grid
from samstudent.student.network import build_network
from samstudent.student.predict import Student, binarize
from samstudent.task import Task
from samstudent.util import device
from support.drawn import case_image, shapes, small_task

#: Sums in float32 have another order.
TOLERANCE = 2e-5
PERCENTILES = {"intensity": "percentile"}


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "half_precision", lambda device: None)


def random_student(task: Task) -> Student:
    torch.manual_seed(0)
    network = build_network(task)
    for name, parameter in network.named_parameters():
        if name == "prior":
            torch.nn.init.normal_(parameter, std=0.02)
    return Student(network, task, "0" * 64, torch.device("cpu"))


def volume(shape: tuple[int, ...], steps: tuple[float, float, float] = (0.8, 0.9, 2.5)) -> CaseImage:
    """Noise with distances x, y, z between voxels."""
    voxels = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    return CaseImage(voxels[None], Grid.of(shape, np.diag([*steps, 1.0])))


@pytest.mark.parametrize(
    "changes",
    [
        {"image": PERCENTILES},
        {"image": PERCENTILES | {"channels": 3}, "overlap": True},
        {"image": {"intensity": "window", "low": 30, "high": 200}, "student": {"size": [64, 96], "channels": [8, 16]}},
        {"structures": [f"bone_{number}" for number in range(9)]},  # with a spatial prior
        {"student": {"network": "segresnet", "size": [64, 64], "channels": [8, 8, 8, 8]}},
        {"student": {"network": "basicunet", "size": [64, 64], "channels": [8, 8, 8, 8, 8]}},
    ],
)
def test_image_of_any_size(changes: dict[str, Any]) -> None:
    task = small_task(**changes)
    student = random_student(task)
    exported = ImageStudent(plain_network(student), task).eval()
    for shape in ((64, 64), (150, 90), (31, 200), (20, 20), (1, 30)):
        pixels = shapes(3, shape)[0]
        image = CaseImage(pixels[None].astype(np.float32), Grid.of(shape, np.eye(4)))
        found = exported(torch.from_numpy(image.pixels))
        np.testing.assert_allclose(found, student.predict(image), atol=TOLERANCE)


def test_pretrained_encoder() -> None:
    """Its convolutions have classes of their own for a CPU with bfloat16."""
    task = small_task(student={"network": "efficientnet_lite0", "size": [64, 64]}, image=PERCENTILES)
    student, image = random_student(task), case_image(shapes(1, (70, 90))[0])
    plain = plain_network(student)
    assert not any(type(layer).__name__.startswith("Float32") for layer in plain.modules())
    assert any(type(layer).__name__.startswith("Float32") for layer in student.network.modules()), "a copy is changed"
    found = ImageStudent(plain, task).eval()(torch.from_numpy(image.pixels))
    np.testing.assert_allclose(found, student.predict(image), atol=TOLERANCE)


def test_colours_are_scaled_by_their_luminance() -> None:
    grey = shapes(5, (80, 60))[0].astype(np.float32)
    image = CaseImage(np.stack([grey, 255 - grey, grey / 2]), Grid.of((80, 60), np.eye(4)))
    for channels in (1, 3):
        task = small_task(image=PERCENTILES | {"channels": channels})
        student = random_student(task)
        found = ImageStudent(plain_network(student), task).eval()(torch.from_numpy(image.pixels))
        np.testing.assert_allclose(found, student.predict(image), atol=TOLERANCE)


@pytest.mark.parametrize("window", [(40.0, 180.0), (50.0, 50.0)])
def test_bounds_replace_those_of_the_task(window: tuple[float, float]) -> None:
    """The VOI window of a DICOM file; one without range makes the image black."""
    task = small_task(image={"intensity": "auto"})
    student = random_student(task)
    pixels = shapes(2, (70, 80))[0][None].astype(np.float32)
    image = CaseImage(pixels, Grid.of((70, 80), np.eye(4)), window=window)
    found = ImageStudent(plain_network(student), task).eval()(torch.from_numpy(pixels), torch.tensor(window).double())
    np.testing.assert_allclose(found, student.predict(image), atol=TOLERANCE)


@pytest.mark.parametrize("value", [7.0, 0.0])
def test_constant_image(value: float) -> None:
    task = small_task(image=PERCENTILES)
    student = random_student(task)
    pixels = np.full((1, 50, 60), value, np.float32)
    for changed in (0, 1):  # also with a structure smaller than the share that the percentiles exclude
        pixels[0, 20, 20 : 20 + changed] = 90
        image = CaseImage(pixels, Grid.of((50, 60), np.eye(4)))
        found = ImageStudent(plain_network(student), task).eval()(torch.from_numpy(pixels))
        np.testing.assert_allclose(found, student.predict(image), atol=TOLERANCE)


def test_percentiles_of_large_images_are_those_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samstudent.imaging.case._PERCENTILE_SAMPLE", 1000)
    task = small_task(image=PERCENTILES)
    student, image = random_student(task), case_image(shapes(4, (90, 100))[0])
    exported = ImageStudent(plain_network(student), task).eval()
    exported.intensity.sample = 1000
    np.testing.assert_allclose(exported(torch.from_numpy(image.pixels)), student.predict(image), atol=TOLERANCE)


@pytest.mark.parametrize("network", ["unet", "segresnet"])
@pytest.mark.parametrize("shape", [(20, 50, 60), (7, 20, 70)])
def test_volume_of_any_size_and_spacing(network: str, shape: tuple[int, int, int]) -> None:
    student_section = {"network": network, "size": [16, 32, 32], "channels": [8, 8], "spacing": [2.0, 1.0, 1.0]}
    task = small_task(dimension=3, student=student_section, image=PERCENTILES)
    student, image = random_student(task), volume(shape)
    exported = VolumeStudent(plain_network(student), task).eval()
    with torch.inference_mode():
        found = exported(torch.from_numpy(image.pixels), torch.tensor(image.grid.spacing, dtype=torch.float64))
    np.testing.assert_allclose(found, student.predict(image), atol=TOLERANCE)


def test_windows_are_those_of_monai() -> None:
    task = small_task(dimension=3, student={"size": [16, 16, 32], "channels": [8, 16]})
    corners: list[float] = []

    def network(windows: torch.Tensor) -> torch.Tensor:
        corners.extend(float(window[0, 0, 0, 0]) for window in windows)
        return windows.clone()

    shape = (40, 16, 75)
    numbers = torch.arange(float(np.prod(shape))).reshape(1, 1, *shape)
    SlidingWindowInferer(task.student.size, overlap=0.5, mode="gaussian")(numbers, network)
    found = [
        float(numbers[0, 0, z, y, x])
        for z in window_starts(40, 16)
        for y in window_starts(16, 16)
        for x in window_starts(75, 32)
    ]
    assert sorted(found) == sorted(corners)
    assert importance_of(task).shape == (16, 16, 32) and importance_of(task).min() == pytest.approx(1e-3)


@pytest.mark.parametrize("overlap", [False, True])
def test_masks_are_those_of_binarize(overlap: bool) -> None:
    generator = np.random.default_rng(0)
    probabilities = np.round(generator.dirichlet(np.ones(4), (30, 40)).transpose(2, 0, 1)[1:], 1).astype(np.float32)
    assert (probabilities == 0.5).any(), "ties"
    found = binary(torch.from_numpy(probabilities), overlap).numpy()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, binarize(probabilities, small_task(structures=list("abc"), overlap=overlap)))
