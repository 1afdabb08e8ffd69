"""The commands that need no server, as a user calls them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samstudent.cli import main
from samstudent.files import sha256_file
from samstudent.images import read_image
from samstudent.labels import read_masks
from samstudent.task import load_task
from samstudent.value_names import ValueNames, write_sidecar

TASK = """\
name: disk
dimension: 2
structures: [disk]
student: {size: [64, 64], channels: [8, 16]}
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in this process: a fresh interpreter would import torch and the host each time."""
    out, err = io.StringIO(), io.StringIO()
    command = ["samstudent", *map(str, arguments)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """images/a.png with a bright disk, masks/a.png a coarse square over it, task.yaml."""
    y, x = np.mgrid[:120, :160]
    truth = (y - 60) ** 2 + (x - 80) ** 2 < 30**2
    noise = np.random.default_rng(0).normal(0, 5, truth.shape)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray((60 + 120 * truth + noise).astype(np.uint8)).save(tmp_path / "images" / "a.png")
    coarse = (abs(y - 60) < 29) & (abs(x - 80) < 31)
    Image.fromarray(coarse.astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    (tmp_path / "task.yaml").write_text(TASK)
    return tmp_path


def test_refine_redraws_a_square_as_the_disk_under_it(disk: Path) -> None:
    arguments = ("--images", disk / "images", "--masks", disk / "masks", "--task", disk / "task.yaml")
    done = run("refine", *arguments, "--output", disk / "out", "--extension", ".png")
    assert done.returncode == 0, done.stderr
    task = load_task(disk / "task.yaml")
    refined = read_masks(disk / "out" / "a.png", task, read_image(disk / "images" / "a.png").grid)[0]
    y, x = np.mgrid[:120, :160]
    truth = (y - 60) ** 2 + (x - 80) ** 2 < 30**2
    assert 2 * (refined & truth).sum() / (refined.sum() + truth.sum()) > 0.95
    with (disk / "out" / "quality.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["structure"] == "disk"
    assert 0 < float(row["quality"]) <= 1


def test_refine_names_the_image_without_a_mask(disk: Path) -> None:
    (disk / "masks" / "a.png").rename(disk / "masks" / "b.png")
    arguments = ("--images", disk / "images", "--masks", disk / "masks", "--task", disk / "task.yaml")
    done = run("refine", *arguments, "--output", disk / "out")
    assert done.returncode == 2
    assert "no mask for a" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_is_content_with_a_right_folder(disk: Path) -> None:
    done = run("doctor", "--studies", disk / "images", "--task", disk / "task.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 images" in done.stdout


def test_doctor_finds_what_is_wrong(disk: Path) -> None:
    (disk / "images" / "broken.png").write_bytes(b"no image")
    labels = disk / "images" / "labels" / "final"
    labels.mkdir(parents=True)
    Image.fromarray(np.full((120, 160), 7, np.uint8)).save(labels / "a.png")
    Image.fromarray(np.zeros((120, 160), np.uint8)).save(labels / "nobody.png")
    done = run("doctor", "--studies", disk / "images", "--task", disk / "task.yaml")
    assert done.returncode == 1
    assert "broken.png" in done.stdout
    assert "value" in done.stdout
    assert "nobody.png" in done.stdout


def test_doctor_tells_which_structures_the_labels_have(disk: Path) -> None:
    """By the names that the host keeps: value 2 of this label map is the disk, value 1 something else."""
    labels = disk / "images" / "labels" / "final"
    labels.mkdir(parents=True)
    stored = np.ones((120, 160), np.uint8)
    stored[:60] = 2
    Image.fromarray(stored).save(labels / "a.png")
    info = {"label_info": [{"name": "ruler", "idx": 1}, {"name": "disk", "idx": 2}]}
    objects = {"a": {"image": {"info": {}}, "labels": {"final": {"info": info}}}}
    (disk / "images" / "datastore_v2.json").write_text(json.dumps({"objects": objects}))
    done = run("doctor", "--studies", disk / "images", "--task", disk / "task.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 1 have disk 1" in done.stdout
    assert "left out: ruler (1)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--studies", "nowhere", "--task", "wrist"), "nowhere"),
        (("serve", "--studies", ".", "--task", "wrsit"), "wrsit"),
        (("rounds", "list", "--studies", "nowhere", "--task", "wrist"), "nowhere"),
        (("demo", "--studies", "nowhere"), "nowhere"),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_process_ends_so_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "samstudent.cli", "serve", "--studies", "nowhere", "--task", "wrist"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "samstudent: --studies nowhere: no such folder\n"


def test_rounds_of_a_fresh_study_are_none(disk: Path) -> None:
    done = run("rounds", "list", "--studies", disk / "images", "--task", disk / "task.yaml")
    assert done.returncode == 0, done.stderr
    done = run("rounds", "rollback", "--studies", disk / "images", "--task", disk / "task.yaml")
    assert done.returncode == 2
    assert "no round was served" in done.stderr


def test_doctor_knows_images_in_a_subfolder(disk: Path) -> None:
    done = run("doctor", "--studies", disk, "--task", disk / "task.yaml")
    assert "1 images" in done.stdout


def put_map(path: Path, nerve: int, vessel: int) -> None:
    """A label map by Pillow: the nerve above, the vessel below."""
    pixels = np.zeros((24, 32), np.uint8)
    pixels[2:8, 4:12], pixels[14:20, 16:30] = nerve, vessel
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def name_values(path: Path, *names: str) -> None:
    write_sidecar(path, sha256_file(path), ValueNames(names, "client"))


@pytest.fixture
def nerves(tmp_path: Path) -> Path:
    """A study of two cases; the label maps number nerve and vessel differently, and the files beside them say how."""
    (tmp_path / "nerves.yaml").write_text(
        "{name: nerves, dimension: 2, structures: [nerve, vessel], student: {size: [32, 32]}, "
        "recipe: {source: student}}"
    )
    for case in "ab":
        Image.fromarray(np.full((24, 32), 99, np.uint8)).save(tmp_path / f"{case}.png")
    final = tmp_path / "labels" / "final"
    put_map(final / "a.png", nerve=2, vessel=1)
    name_values(final / "a.png", "vessel", "nerve")
    put_map(final / "b.png", nerve=1, vessel=2)
    return tmp_path


def test_doctor_says_where_the_meaning_is_assumed(nerves: Path) -> None:
    done = run("doctor", "--studies", nerves, "--task", nerves / "nerves.yaml")
    assert done.returncode == 0, done.stdout
    said = "1 label map does not say what its values mean; assumed from task nerves: 1 = nerve, 2 = vessel. Check one"
    assert said in done.stdout and not list(nerves.glob("labels/final/b.png.*")), "doctor writes nothing"
    (nerves / "bones.yaml").write_text("{name: bones, dimension: 2, structures: [bone], student: {size: [32, 32]}}")
    assert run("confirm-labels", "--studies", nerves, "--task", nerves / "nerves.yaml").returncode == 0
    done = run("doctor", "--studies", nerves, "--task", nerves / "nerves.yaml")
    assert "assumed" not in done.stdout and "of 2 have nerve 2, vessel 2" in done.stdout
    done = run("doctor", "--studies", nerves, "--task", nerves / "bones.yaml")
    assert (
        "labels/ holds labels of task nerves (nerve, vessel); task bones has its labels in labels-bones/" in done.stdout
    )
    assert "2 images, 0 human labels" in done.stdout


def test_refine_reads_the_names_beside_masks(nerves: Path) -> None:
    """Also those of a mask that was renamed, by its content."""
    final = nerves / "labels" / "final"
    (nerves / "a.png").rename(nerves / "c.png")
    (final / "a.png").rename(final / "c.png")
    (nerves / "images").mkdir()
    for case in "bc":
        (nerves / f"{case}.png").rename(nerves / "images" / f"{case}.png")
    task = nerves / "nerves.yaml"
    done = run(
        "refine", "--images", nerves / "images", "--masks", final, "--task", task, "--output", nerves / "out",
        "--extension", ".png",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for case in "bc":
        pixels = np.asarray(Image.open(nerves / "out" / f"{case}.png"))
        assert (pixels[2:8, 4:12] == 1).all() and (pixels[14:20, 16:30] == 2).all()
