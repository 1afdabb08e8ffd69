from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from samstudent.errors import NotFound, UserError
from samstudent.student.predict import Student, binarize, save_model
from samstudent.student.training import (
    MeanTeacher,
    TrainingOptions,
    epochs_of,
    new_average,
    new_network,
    resized,
    train_student,
)
from samstudent.student.training_case import CaseLabel, prepare_case, without_label
from samstudent.task import Steps
from samstudent.util import device
from samstudent.util.device import half_precision, pick_device
from support.drawn import case_image, dice, shapes, small_task, training_cases


@pytest.mark.parametrize("overlap", [False, True])
def test_student_segments_disks_and_squares(tmp_path: Path, overlap: bool) -> None:
    task = small_task(overlap=overlap)
    trained = train_student(training_cases(6, task), task, tmp_path / "model.pt", TrainingOptions(seed=1))
    student = Student.load(tmp_path / "model.pt", task)
    assert student.version == trained.version
    for seed in (100, 101):
        # Another size than the training images', not square: the answer still lies on the image's own grid.
        pixels, masks = shapes(seed, (96, 80), overlap)
        probabilities = student.predict(case_image(pixels))
        assert probabilities.shape == (2, 96, 80) and probabilities.dtype == np.float32
        assert probabilities.min() >= 0 and probabilities.max() <= 1
        answer = binarize(probabilities, task)
        assert dice(answer[0], masks[0]) > 0.85
        assert dice(answer[1], masks[1]) > 0.85


def test_one_label_is_enough_to_train(tmp_path: Path) -> None:
    task = small_task()
    train_student(training_cases(1, task), task, tmp_path / "model.pt")
    pixels, masks = shapes(0)
    answer = binarize(Student.load(tmp_path / "model.pt", task).predict(case_image(pixels)), task)
    assert dice(answer[0], masks[0]) > 0.8


def test_student_of_volumes_predicts_by_windows(tmp_path: Path) -> None:
    task = small_task(
        dimension=3,
        structures=["ball"],
        student={"size": [16, 16, 16], "channels": [8, 16], "spacing": [1, 1, 1]},
        training={"steps": 60, "batch_size": 2, "learning_rate": 0.01, "rotate": 0},
    )

    def ball(centre: tuple[int, int, int], shape: tuple[int, int, int]) -> NDArray[Any]:
        grid = np.mgrid[tuple(slice(n) for n in shape)]
        return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= 25

    def scan(mask: NDArray[Any]) -> NDArray[Any]:
        return 150.0 * mask + np.random.default_rng(0).normal(40, 10, mask.shape)

    mask = ball((9, 12, 10), (20, 44, 40))
    case = prepare_case("v", case_image(scan(mask)), CaseLabel(mask[None]), task)
    train_student([case], task, tmp_path / "model.pt")
    other = ball((10, 14, 24), (18, 26, 34))
    answer = Student.load(tmp_path / "model.pt", task).predict(case_image(scan(other)))
    assert answer.shape == (1, 18, 26, 34)
    assert dice(answer[0] > 0.5, other) > 0.8


def test_same_seed_same_weights_other_seed_others(tmp_path: Path) -> None:
    task = small_task()
    cases = training_cases(3, task)
    first, again, other = (
        train_student(cases, task, tmp_path / f"{i}.pt", TrainingOptions(steps=4, seed=seed))
        for i, seed in enumerate((5, 5, 6))
    )
    assert first == again
    assert first != other


def test_training_continues_from_a_model(tmp_path: Path) -> None:
    task = small_task()
    train_student(training_cases(4, task), task, tmp_path / "a.pt", TrainingOptions(seed=1))
    losses: list[float] = []
    options = TrainingOptions(steps=1, start=tmp_path / "a.pt", on_step=lambda step, steps, loss: losses.append(loss))
    train_student(training_cases(4, task), task, tmp_path / "b.pt", options)
    fresh: list[float] = []
    options = TrainingOptions(steps=1, on_step=lambda step, steps, loss: fresh.append(loss))
    train_student(training_cases(4, task), task, tmp_path / "c.pt", options)
    assert losses[0] < 0.5 * fresh[0]


def test_global_random_state_is_unchanged() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    new_network(small_task(), seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_killed_training_leaves_no_new_and_no_changed_model(tmp_path: Path) -> None:
    task = small_task(training={"steps": 5000, "batch_size": 4})
    champion = tmp_path / "champion.pt"
    version = save_model(champion, new_network(task, 0), task)
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "from samstudent.server import deferred_imports; deferred_imports.install()\n"
        "from pathlib import Path\n"
        "from support.drawn import small_task, training_cases\n"
        "from samstudent.student.training import TrainingOptions, train_student\n"
        "task = small_task(training={'steps': 5000, 'batch_size': 4})\n"
        "out = Path(sys.argv[2])\n"
        "options = TrainingOptions(start=out / 'champion.pt',\n"
        "    on_step=lambda step, steps, loss: (out / 'step').write_text(str(step)))\n"
        "train_student(training_cases(2, task), task, out / 'challenger.pt', options)\n"
    )
    tests = str(Path(__file__).resolve().parents[1])
    process = subprocess.Popen([sys.executable, "-c", script, tests, str(tmp_path)])
    try:
        until = time.monotonic() + 240
        while not (tmp_path / "step").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert process.poll() is None, "the training ended by itself"
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "step").exists()
    assert not (tmp_path / "challenger.pt").exists()
    assert Student.load(champion, task).version == version


def test_half_precision_predicts_like_full_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if half_precision(torch.device("cpu")) is None:
        pytest.skip("this CPU has no fast bfloat16")
    task = small_task()
    train_student(training_cases(6, task), task, tmp_path / "model.pt", TrainingOptions(seed=1))
    student = Student.load(tmp_path / "model.pt", task, "cpu")
    image = case_image(shapes(50)[0])
    half = student.predict(image)
    monkeypatch.setattr(device, "half_precision", lambda device: None)
    full = student.predict(image)
    assert np.abs(half - full).mean() < 0.01
    assert dice(half > 0.5, full > 0.5) > 0.98


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (50, 1), (51, 2), (600, 12), ("auto", 0)])
def test_epochs_of_a_number_of_steps(steps: Steps, epochs: int) -> None:
    assert epochs_of(steps) == epochs


def test_files_that_are_no_matching_model_are_refused(tmp_path: Path) -> None:
    task = small_task()
    model = tmp_path / "model.pt"
    with pytest.raises(NotFound, match="no such model file"):
        Student.load(model, task)
    model.write_bytes(b"no model")
    with pytest.raises(UserError, match="not a model file"):
        Student.load(model, task)
    torch.save({"model": {}}, model)
    with pytest.raises(UserError, match="not a model file"):
        Student.load(model, task)
    save_model(model, new_network(task, 0), task)
    model.write_bytes(model.read_bytes()[:-200])
    with pytest.raises(UserError, match="damaged"):
        Student.load(model, task)
    save_model(model, new_network(task, 0), task)
    for change in ({"structures": ["square", "disk"]}, {"overlap": True}, {"image": {"channels": 3}}):
        with pytest.raises(UserError, match=f"other {next(iter(change))}"):
            Student.load(model, small_task(**change))
    # What a model does not depend on may change.
    Student.load(model, small_task(description="new", training={"steps": 7}))


def test_devices_are_checked() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="use cpu, cuda"):
        pick_device("tpu")
    with pytest.raises(UserError, match="CUDA devices"):
        pick_device("cuda:99")


def weights(path: Path) -> torch.Tensor:
    return torch.cat([w.flatten() for w in torch.load(path, weights_only=True)["model"].values()])


def test_averaged_weights_are_those_of_all_steps() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    average = new_average(network, decay=0.9)
    expected = None
    for step, weight in enumerate((1.0, 3.0, -2.0, 5.0) + (4.0,) * 12):
        with torch.no_grad():
            network.weight.fill_(weight)
        average.update_parameters(network)
        decay = min(1 - 1 / (step + 1), 0.9)
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_unlabelled_images_train_by_consistency_only(tmp_path: Path) -> None:
    task = small_task(training={"steps": 8, "batch_size": 4})
    cases = training_cases(2, task)

    def train(name: str, consistency: float, seeds: range) -> torch.Tensor:
        unlabelled = [without_label(f"u{s}", case_image(shapes(s)[0]), task) for s in seeds]
        train_student(cases, task, tmp_path / name, TrainingOptions(teacher=MeanTeacher(unlabelled, consistency)))
        return weights(tmp_path / name)

    first, others = range(20, 24), range(30, 34)
    torch.testing.assert_close(train("a", 0.0, first), train("b", 0.0, others))
    assert not torch.equal(train("c", 10.0, first), train("d", 10.0, others))
    assert torch.equal(train("c", 10.0, first), train("e", 10.0, first))


def test_labelled_case_is_not_accepted_as_unlabelled(tmp_path: Path) -> None:
    task = small_task()
    options = TrainingOptions(teacher=MeanTeacher(training_cases(1, task)))
    with pytest.raises(ValueError, match="without_label"):
        train_student(training_cases(1, task), task, tmp_path / "m", options)


def test_smaller_batches_show_the_same_structures() -> None:
    masks = shapes(3, (96, 64))[1]
    label = torch.zeros(1, 96, 64, dtype=torch.uint8)
    for value, mask in enumerate(torch.from_numpy(masks), 1):
        label[0][mask] = value
    full = torch.from_numpy(masks)[None]
    batch = {"image": torch.rand(1, 1, 96, 64), "label": label, "masks": full.float(), "weights": torch.ones(1, 2)}
    smaller = resized(batch | {"ignore": full}, (48, 32))
    assert smaller["image"].shape == (1, 1, 48, 32) and smaller["weights"] is batch["weights"]
    torch.testing.assert_close(smaller["image"][0, 0, 5, 7], batch["image"][0, 0, 10:12, 14:16].mean())
    assert smaller["label"].dtype == torch.uint8 and smaller["ignore"].dtype == torch.bool
    for value, mask in enumerate(masks, 1):
        expected = mask.reshape(48, 2, 32, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(smaller["masks"][0, value - 1], expected)
        for found in ((smaller["label"][0] == value).numpy(), smaller["ignore"][0, value - 1].numpy()):
            assert dice(found, expected >= 0.5) > 0.9


def test_mean_teacher_has_statistics_of_its_own_activations(tmp_path: Path) -> None:
    task = small_task(student={"size": [64, 64]}, training={"steps": 4, "batch_size": 4})
    cases = training_cases(4, task)
    unlabelled = [without_label(f"u{s}", case_image(shapes(s)[0]), task) for s in range(20, 24)]
    train_student(cases, task, tmp_path / "m.pt", TrainingOptions(teacher=MeanTeacher(unlabelled)))
    network = Student.load(tmp_path / "m.pt", task).network
    norm = next(layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    means: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda _, inputs: means.append(inputs[0].mean(dim=(0, 2, 3))))
    with torch.no_grad():
        network(torch.stack([torch.from_numpy(case.image) for case in (*cases, *unlabelled)]))
    # Of augmented images; the pretrained statistics are those of photographs.
    assert (means[0] - norm.running_mean).abs().mean() < 0.2 * norm.running_var.sqrt().mean()
