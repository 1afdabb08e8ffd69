"""Task file: every shipped one is valid, and errors name file and key."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from samstudent import task
from samstudent.errors import NotFound, UserError

MINIMAL: dict[str, Any] = {"name": "mine", "dimension": 2, "structures": ["a", "b"]}


def write(folder: Path, content: dict[str, Any] | str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def test_documented_tasks_are_shipped() -> None:
    assert task.shipped_tasks() == ["chest", "hippocampus", "phantom", "teeth", "ultrasound", "wrist"]


@pytest.mark.parametrize("name", task.shipped_tasks())
def test_every_shipped_task_loads_by_its_own_name(name: str) -> None:
    shipped = task.load_task(name)
    assert shipped.name == name
    assert shipped.description
    assert list(shipped.structures.values()) == list(range(1, len(shipped.names) + 1))
    assert len(shipped.student.size) == shipped.dimension
    # Works with no internet and no other file.
    assert shipped.sam.backend == "lite_medsam"


def test_shipped_tasks_fit_their_data() -> None:
    wrist, teeth, chest = (task.load_task(name) for name in ("wrist", "teeth", "chest"))
    assert (len(wrist.names), wrist.student.size, wrist.overlap) == (17, (384, 224), True)
    assert wrist.names == sorted(wrist.names)  # the order of the paper's own labels
    assert (len(teeth.names), teeth.student.size) == (32, (224, 384))
    assert {name[-2:] for name in teeth.names} == {f"{q}{t}" for q in range(1, 5) for t in range(1, 9)}
    assert len(chest.names) == 5
    hippocampus, ultrasound = task.load_task("hippocampus"), task.load_task("ultrasound")
    assert (hippocampus.dimension, hippocampus.names) == (3, ["anterior", "posterior"])
    assert ultrasound.structures == {"nerve": 1, "vessel": 2}


@pytest.mark.parametrize("name", ["teeth", "chest"])
def test_mirroring_is_disabled_for_structures_with_a_side(name: str) -> None:
    assert task.load_task(name).training.mirror == ()


def test_task_file_of_a_new_anatomy_is_short() -> None:
    text = (Path(str(task._shipped())) / "ultrasound.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 10


def test_minimal_task_file_is_valid(tmp_path: Path) -> None:
    mine = task.load_task(write(tmp_path, MINIMAL))
    assert mine.structures == {"a": 1, "b": 2}
    assert mine.training == task.TrainingSection()
    assert mine.schedule.every_labels is None


def test_path_takes_precedence_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, MINIMAL, "wrist")
    monkeypatch.chdir(tmp_path)
    assert task.load_task("wrist").name == "mine"


def test_structures_are_in_the_order_of_their_values(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL | {"structures": {"last": 3, "first": 1, "middle": 2}})
    assert task.load_task(path).names == ["first", "middle", "last"]


def test_checkpoint_is_found_relative_to_the_task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, MINIMAL | {"sam": {"backend": "vit_b", "checkpoint": "weights/sam.pth"}})
    monkeypatch.chdir("/")
    assert task.load_task(path).sam.checkpoint == tmp_path / "weights" / "sam.pth"


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"colour": "red"}, "colour: unknown key; allowed here: name, description, dimension"),
        ({"student": {"sizes": [256, 256]}}, r"student\.sizes: unknown key; allowed here: network, encoder"),
        ({"recipe": {"stages": [{"prompt": ["box"]}]}}, r"stages\.0\.prompt: unknown key; allowed here: prompts$"),
        ({"name": None}, "name"),
        ({"name": "../x"}, "name: .*got '../x'"),
        ({"dimension": 4}, "dimension: .*got 4"),
        ({"structures": []}, "structures"),
        ({"structures": ["a", "a"]}, "structures: .*listed twice"),
        ({"structures": {"a": 1, "b": 3}}, r"label values must be 1 to 2, each once, not \[1, 3\]"),
        ({"structures": {"a": 0, "b": 1}}, "label values must be 1 to 2"),
        ({"structures": ["Background"]}, "no structures"),
        ({"structures": ["a/b"]}, r"structures\.a/b"),
        ({"student": {"size": [250, 256]}}, r"student\.size: .*multiple of 16"),
        ({"student": {"size": [256, 256, 16]}}, r"student\.size needs 2 numbers"),
        ({"dimension": 3}, r"student\.size needs 3 numbers"),
        ({"student": {"network": "resnet"}}, r"student\.network: .*'unet'.*got 'resnet'"),
        ({"image": {"low": 5, "high": 5}}, r"low \(5.0\) must be below high"),
        ({"image": {"intensity": "percentile", "low": -1}}, "between 0 and 100"),
        ({"image": {"channels": 2}}, r"image\.channels"),
        ({"sam": {"backend": "vit_b"}}, "needs 'checkpoint'"),
        ({"sam": {"sha256": "abc"}}, r"sam\.sha256"),
        ({"recipe": {"stages": []}}, r"recipe\.stages: .*at least one stage"),
        ({"recipe": {"stages": [{"prompts": []}]}}, "without repeats"),
        ({"recipe": {"stages": [{"prompts": ["box", "box"]}]}}, "without repeats"),
        ({"recipe": {"stages": [{"prompts": ["mask"]}]}}, "a box or a positive point"),
        ({"recipe": {"stages": [{"prompts": ["box", "logits", "mask"]}]}}, "not both"),
        ({"recipe": {"stages": [{"prompts": ["box", "logits"]}]}}, "no earlier logits"),
        ({"training": {"steps": 0}}, r"training\.steps: .*got 0"),
        ({"training": {"steps": 0}}, r"training\.steps"),
        ({"training": {"mirror": ["z"]}}, "no axis z"),
        ({"pseudo_labels": {"threshold": {"c": 0.5}}}, r"unknown structures \['c'\]"),
        ({"pseudo_labels": {"threshold": 1.5}}, r"pseudo_labels\.threshold"),
        ({"holdout": {"fraction": 1}}, r"holdout\.fraction"),
        ({"active_learning": {"strategy": "random"}}, r"active_learning\.strategy"),
        ({"schedule": {"at": "25:00"}}, r"schedule\.at"),
        ({"schedule": {"at": 750}}, r"schedule\.at: .*in quotes"),
        ({"schedule": {"every_labels": 0}}, r"schedule\.every_labels"),
        ({"training": 3}, "training: .*got 3"),
        ({"training": None}, "training"),
    ],
)  # fmt: skip
def test_errors_name_file_and_key(tmp_path: Path, changes: dict[str, Any], wrong: str) -> None:
    path = write(tmp_path, MINIMAL | changes)
    with pytest.raises(UserError, match=wrong) as caught:
        task.load_task(path)
    assert str(path) in str(caught.value)
    assert caught.value.status == 400


def test_all_errors_are_reported_together(tmp_path: Path) -> None:
    path = write(tmp_path, {"dimension": 2, "structures": ["a"], "colour": 1, "training": {"step": 5}})
    with pytest.raises(UserError, match=r"(?s)name: missing.*training\.step: unknown key.*colour: unknown key"):
        task.load_task(path)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("- a\n- b\n", "is a mapping"),
        ("", "is a mapping"),
        ("name: [", "not valid YAML"),
        ("a: !!python/object:x {}", "not valid YAML"),
    ],
)
def test_invalid_task_files_are_refused(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        task.load_task(write(tmp_path, text))


def test_binary_task_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match="not valid YAML"):
        task.load_task(path)


def test_unknown_task_name_lists_the_shipped_ones() -> None:
    with pytest.raises(NotFound, match=r"'knee': no such file.*phantom.*wrist"):
        task.load_task("knee")


def test_task_is_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        task.load_task("phantom").name = "other"


def test_stages_fit_what_the_backend_was_trained_with() -> None:
    recipe = task.Recipe()
    assert recipe.stages_for("vit_b") == task.PAPER_STAGES
    assert recipe.stages_for("lite_medsam") == task.BOX_STAGES
    own = (task.Stage(prompts=("positive",)),)
    assert task.Recipe(stages=own).stages_for("lite_medsam") == own


def test_threshold_per_structure_falls_back_to_the_default(tmp_path: Path) -> None:
    mine = task.load_task(write(tmp_path, MINIMAL | {"pseudo_labels": {"threshold": {"a": 0.9}}}))
    assert (mine.threshold_of("a"), mine.threshold_of("b")) == (0.9, 0.6)
    assert task.load_task("phantom").threshold_of("radius") == 0.6


def test_installed_task_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a wheel they are in the package, not beside lib/."""
    package = tmp_path / "samstudent"
    shutil.copytree(str(task._shipped()), package / "configs")
    monkeypatch.setattr(task.resources, "files", lambda name: package)
    assert task._shipped() == package / "configs"
    assert task.load_task("wrist").name == "wrist"


@pytest.mark.parametrize(("enabled", "policy"), [(True, "learned"), (False, "fixed")])
def test_renamed_policy_key_is_accepted(enabled: bool, policy: str) -> None:
    content = {"name": "t", "dimension": 2, "structures": ["a"], "trust": {"enabled": enabled}}
    assert task.Task.model_validate(content).pseudo_labels.policy == policy
    assert task.Task.model_validate(content | {"pseudo_labels": {"folds": 2}}).pseudo_labels.folds == 2


@pytest.mark.parametrize("more", [{"trust": {"folds": 3}}, {"pseudo_labels": {"policy": "learned"}}])
def test_removed_or_contradictory_keys_are_refused(more: dict[str, object]) -> None:
    content = {"name": "t", "dimension": 2, "structures": ["a"], "trust": {"enabled": False}}
    with pytest.raises(ValueError, match=r"pseudo_labels: \{policy"):
        task.Task.model_validate(content | more)


# ---- named channels ----


def with_image(dimension: int = 3, student: dict[str, object] | None = None, **image: object) -> task.Task:
    size = {"size": [32] * dimension}
    content = {"name": "t", "dimension": dimension, "structures": ["a"], "image": image}
    return task.Task.model_validate({**content, "student": size | (student or {})})


def test_listed_channels_are_recognised_by_their_names() -> None:
    image = with_image(channels=["T1", "FLAIR"]).image
    assert image.sequences == {"T1": "_T1", "FLAIR": "_FLAIR"} and image.count == 2
    assert with_image(channels=3).image.count == 3 and not with_image(channels=3).image.sequences
    assert task.Task.model_validate(with_image(channels=["T1"]).model_dump(mode="json")).image.channels == {"T1": "_T1"}


def test_named_channels_take_a_network_that_has_as_many() -> None:
    assert with_image(2, channels=["a", "b"]).student.network == "unet"
    assert with_image(2, {"network": "efficientnet_lite0"}, channels=["a", "b", "c"]).student.has_encoder
    with pytest.raises(ValidationError, match="takes 1 or 3 channels, not 2; use unet"):
        with_image(2, {"network": "efficientnet_lite0"}, channels=["a", "b"])


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"channels": ["T1", "T1"]}, "a channel is listed twice"),
        ({"channels": {"T1": "_a", "T2": "_A"}}, "each channel needs a text of its own"),
        ({"channels": {"T1": " "}}, "each channel needs a text of its own"),
        ({"channels": []}, "names of one or more channels"),
        ({"channels": ["composite", "T1"]}, "names of one or more channels"),
        ({"channels": ["T1", "T2"], "sam_channel": "T3"}, "sam_channel must be one of the named channels or composite"),
        ({"sam_channel": "T1"}, "sam_channel must be one of the named channels or composite"),
        ({"channels": 2}, "channels"),
    ],
)
def test_faults_of_channels_are_named(image: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        with_image(**image)
