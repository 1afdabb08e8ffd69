"""Initial weights from a file: of another task, and of the user's own networks of MONAI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet

from samstudent.errors import NotFound, UserError
from samstudent.student.network import SpatialPrior, build_network
from samstudent.student.predict import save_model
from samstudent.student.start import load_start
from samstudent.student.training import new_network
from samstudent.task import Task
from support.drawn import small_task


def network_of(task: Task, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    network = build_network(task)
    if isinstance(network, SpatialPrior):
        torch.nn.init.normal_(network.prior)
    return network


def saved(folder: Path, task: Task, seed: int = 5) -> tuple[Path, dict[str, torch.Tensor]]:
    """Model file with random weights, and the weights."""
    network = network_of(task, seed)
    save_model(folder / "model.pt", network, task)
    return folder / "model.pt", network.state_dict()


def loaded(path: Path, task: Task) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], str]:
    """Weights of a network before and after ``load_start``, and its sentence."""
    network = network_of(task, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    return before, (sentence := load_start(network, path, task)) and network.state_dict(), sentence


def same(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    return {name for name in first if torch.equal(first[name], second[name])}


def test_model_of_the_same_task_is_loaded_as_it_is(tmp_path: Path) -> None:
    task = small_task()
    path, weights = saved(tmp_path, task)
    _, after, sentence = loaded(path, task)
    assert same(weights, after) == set(weights)
    assert sentence == f"Initial weights of {path}: all"
    assert same(weights, new_network(task, seed=3, start=path).state_dict()) == set(weights)


def test_outputs_are_loaded_by_the_names_of_the_structures(tmp_path: Path) -> None:
    path, weights = saved(tmp_path, small_task(structures=["square", "bar", "disk"]))
    before, after, sentence = loaded(path, small_task(structures=["disk", "square", "cross"]))
    assert same(weights, after) == set(weights) - {"2.weight", "2.bias"}
    for name in ("2.weight", "2.bias"):
        for row, source in enumerate((0, 3, 1)):  # background, disk, square
            assert torch.equal(after[name][row], weights[name][source])
        assert torch.equal(after[name][3], before[name][3])
    assert sentence.endswith("encoder and decoder; new are the outputs of cross")


def test_outputs_of_a_sigmoid_are_new_for_a_softmax(tmp_path: Path) -> None:
    path, weights = saved(tmp_path, small_task(structures=["a", "b", "c"], overlap=True))
    before, after, sentence = loaded(path, small_task(structures=["a", "b"]))
    assert same(before, after) >= {"2.weight", "2.bias"} and "0.model.0.conv.unit0.conv.weight" in same(weights, after)
    assert sentence.endswith("new are the outputs of a, b")


def test_spatial_prior_is_loaded_by_structure(tmp_path: Path) -> None:
    many = [f"bone_{number}" for number in range(9)]
    with_prior, without = small_task(structures=many), small_task(structures=many[:2])
    path, weights = saved(tmp_path, with_prior)
    _, after, sentence = loaded(path, without)
    assert set(after) == {name.removeprefix("network.") for name in weights} - {"prior"}
    assert torch.equal(after["2.weight"], weights["network.2.weight"][:3]) and sentence.endswith(": all")
    _, after, _ = loaded(path, small_task(structures=many[::-1]))
    assert torch.equal(after["prior"][1:10], weights["prior"][1:10].flip(0))
    path, weights = saved(tmp_path, without)
    before, after, _ = loaded(path, with_prior)
    assert torch.equal(after["network.2.bias"][:3], weights["2.bias"])
    assert torch.equal(after["prior"], before["prior"])


def test_pretrained_encoder_of_another_task(tmp_path: Path) -> None:
    section = {"student": {"network": "efficientnet_lite0", "size": [64, 64]}}
    path, weights = saved(tmp_path, small_task(structures=["a"], **section))
    before, after, _ = loaded(path, small_task(structures=["b", "c"], **section))
    assert set(weights) - same(weights, after) == {"unet.segmentation_head.0.weight", "unet.segmentation_head.0.bias"}
    assert torch.equal(after["unet.segmentation_head.0.weight"][1:], before["unet.segmentation_head.0.weight"][1:])
    assert torch.equal(after["unet.segmentation_head.0.bias"][0], weights["unet.segmentation_head.0.bias"][0])


def test_unet_of_segmentation_models_pytorch(tmp_path: Path) -> None:
    network = smp.Unet(
        "tu-tf_efficientnet_lite0", encoder_weights=None, decoder_channels=(128, 64, 48, 32, 16), classes=3
    )
    torch.save(network.state_dict(), tmp_path / "own.pt")
    task = small_task(student={"network": "efficientnet_lite0", "size": [64, 64]})
    _, after, sentence = loaded(tmp_path / "own.pt", task)
    assert sentence.endswith(": all")
    assert all(torch.equal(after[f"unet.{name}"], value) for name, value in network.state_dict().items())


CHANNELS = (8, 16, 32)
FIVE = (8, 8, 16, 16, 32)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("wrapped", ["bare", "state_dict", "parallel"])
def test_networks_of_monai(tmp_path: Path, dimension: int, wrapped: str) -> None:
    """The forms of docs/how-to/export-model.md."""
    size = [32] * dimension
    own = {
        "basicunet": (BasicUNet(dimension, 1, 3, features=(*FIVE, FIVE[0])), FIVE),
        "segresnet": (SegResNet(dimension, 8, 1, 3, blocks_down=(1, 2, 2), blocks_up=(1, 1)), (8, 8, 8)),
    }
    for name, (network, channels) in own.items():
        state: Any = network.state_dict()
        if wrapped == "parallel":
            state = {f"module.{key}": value for key, value in state.items()}
        torch.save({"state_dict": state, "epoch": 3} if wrapped == "state_dict" else state, tmp_path / "own.pt")
        task = small_task(dimension=dimension, student={"network": name, "size": size, "channels": channels})
        started = network_of(task, 1)
        assert load_start(started, tmp_path / "own.pt", task).endswith(": all")
        image = torch.rand(1, 1, *size)
        with torch.inference_mode():
            torch.testing.assert_close(started.eval()(image), network.eval()(image))


@pytest.mark.parametrize("act", ["PRELU", ("leakyrelu", {"negative_slope": 0.25})])
def test_unet_of_monai(tmp_path: Path, act: Any) -> None:
    """The student has a head behind MONAI's network, so its last level and its outputs are new."""
    network = UNet(2, 1, 3, CHANNELS, (2, 2), num_res_units=2, act=act)
    torch.save(network.state_dict(), tmp_path / "own.pt")
    task = small_task(student={"size": [64, 64], "channels": CHANNELS})
    before, after, sentence = loaded(tmp_path / "own.pt", task)
    new = {name for name in after if name.startswith(("0.model.2.", "2."))}
    assert same(before, after) >= new
    weights = {f"0.{name}": value for name, value in network.state_dict().items() if not name.endswith(".A.weight")}
    assert all(torch.equal(after[name], weights[name]) for name in after.keys() - new)
    assert ("; not the slopes of its PReLU" in sentence) == (act == "PRELU")


def test_errors_name_the_first_differences(tmp_path: Path) -> None:
    task, path = small_task(), tmp_path / "own.pt"
    with pytest.raises(NotFound, match=r"own\.pt: no such file"):
        load_start(build_network(task), path, task)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="not a PyTorch checkpoint of plain weights"):
        load_start(build_network(task), path, task)
    torch.save(build_network(task), path)
    with pytest.raises(UserError, match=r"plain weights; expected torch\.save\(network\.state_dict\(\)"):
        load_start(build_network(task), path, task)
    torch.save({"epoch": 3, "task": "segmentation"}, path)
    with pytest.raises(UserError, match="contains no weights"):
        load_start(build_network(task), path, task)
    save_model(path, build_network(wide := small_task(student={"size": [64, 64], "channels": [4, 16, 32]})), wide)
    with pytest.raises(UserError) as caught:
        load_start(build_network(task), path, task)
    assert "not the weights of student.network unet, channels [8, 16, 32] of task 'drawn': 0.model.0.conv" in str(
        caught.value
    )
    assert ".weight is (4, 1, 3, 3), should be (8, 1, 3, 3); " in str(caught.value) and " more" in str(caught.value)
    torch.save(BasicUNet(2, 1, 3).state_dict(), path)
    with pytest.raises(UserError, match=r"is missing; .* is missing; .*; and \d+ more"):
        load_start(build_network(task), path, task)
    colours = small_task(image={"channels": 3})
    save_model(path, build_network(colours), colours)
    with pytest.raises(UserError, match=r"\.weight is \(8, 3, 3, 3\), should be \(8, 1, 3, 3\)"):
        load_start(build_network(task), path, task)


def test_interior_is_loaded_where_the_file_has_it(tmp_path: Path) -> None:
    names = [f"tooth_{number}" for number in range(9)]
    path, weights = saved(tmp_path, small_task(structures=names))
    _, after, _ = loaded(path, small_task(structures=names[1:]))
    head, prior = "2.weight", "prior"
    ours, theirs = (state[next(name for name in state if name.endswith(head))] for state in (after, weights))
    assert torch.equal(ours, theirs[[0, *range(2, 11)]])
    assert torch.equal(after[prior], weights[prior][[0, *range(2, 11)]])


def test_file_without_an_interior_leaves_it_new(tmp_path: Path) -> None:
    few, many = (small_task(structures=[f"tooth_{number}" for number in range(count)]) for count in (7, 8))
    path, weights = saved(tmp_path, few)
    before, after, sentence = loaded(path, many)
    name = next(name for name in after if name.endswith("2.weight"))
    own = name.removeprefix("network.")
    assert torch.equal(after[name][:8], weights[own]) and torch.equal(after[name][8:], before[name][8:])
    assert sentence.endswith("new are the outputs of tooth_7")
