"""Commands without a server."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
from PIL import Image

from samstudent.cli.main import main
from samstudent.imaging.case import read_image
from samstudent.imaging.file_names import LABELS
from samstudent.imaging.folder import list_folder
from samstudent.imaging.labels import read_masks
from samstudent.imaging.value_names import ValueNames, write_sidecar
from samstudent.task import load_task
from samstudent.util.files import sha256_file

TASK = """\
name: disk
dimension: 2
structures: [disk]
student: {size: [64, 64], channels: [8, 16]}
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in this process: a new interpreter would import torch and the host each time."""
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
    """images/a.png with a bright disk, masks/a.png with a coarse square over it, task.yaml."""
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


def test_doctor_reports_no_problem_in_a_valid_folder(disk: Path) -> None:
    done = run("doctor", "--studies", disk / "images", "--task", disk / "task.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 images" in done.stdout


def test_doctor_reports_problems(disk: Path) -> None:
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


def test_doctor_lists_structures_of_the_labels(disk: Path) -> None:
    """By the names in the host's list: value 2 of this label map is the disk, value 1 another structure."""
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
    assert "of 1 labels: disk 1" in done.stdout
    assert "left out: ruler (1)" in done.stdout
    # Marked as not annotated: neither absent nor left out.
    Image.fromarray(np.ones_like(stored)).save(labels / "a.png")
    info["label_info"][1]["name"] = "ignore:disk"
    (disk / "images" / "datastore_v2.json").write_text(json.dumps({"objects": objects}))
    done = run("doctor", "--studies", disk / "images", "--task", disk / "task.yaml")
    assert "not annotated, so not used in training and comparisons: disk (1)" in done.stdout
    assert "left out: ruler (1)" in done.stdout


def test_doctor_reports_warnings_of_readers(tmp_path: Path) -> None:
    """pynrrd's default has no ``space``: the label is read, with a warning."""
    (tmp_path / "task.yaml").write_text("name: ball\ndimension: 3\nstructures: [ball]\nstudent: {size: [16, 16, 16]}\n")
    nibabel.save(nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(5, 4, 3), np.eye(4)), tmp_path / "a.nii.gz")
    (tmp_path / "labels" / "final").mkdir(parents=True)
    nrrd.write(str(tmp_path / "labels" / "final" / "a.nrrd"), np.ones((5, 4, 3), np.uint8))
    done = run("doctor", "--studies", tmp_path, "--task", tmp_path / "task.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a.nrrd: its NRRD header has no `space` field: read voxel by voxel" in done.stdout
    assert "of 1 labels: ball 1" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--studies", "nowhere", "--task", "wrist"), "nowhere"),
        (("serve", "--studies", ".", "--task", "wrsit"), "wrsit"),
        (("serve", "--studies", ".", "--task", "wrist", "--root-path", "wrist"), "such as /wrist"),
        (("serve", "--studies", ".", "--task", "wrist", "--root-path", "/a/../b"), "such as /wrist"),
        (("rounds", "list", "--studies", "nowhere", "--task", "wrist"), "nowhere"),
        (("demo", "--studies", "nowhere"), "nowhere"),
    ],
)
def test_user_error_is_one_line(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_user_error_of_a_process_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "samstudent.cli.main", "serve", "--studies", "nowhere", "--task", "wrist"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "samstudent: --studies nowhere: no such folder\n"


def test_new_study_has_no_rounds(disk: Path) -> None:
    done = run("rounds", "list", "--studies", disk / "images", "--task", disk / "task.yaml")
    assert done.returncode == 0, done.stderr
    done = run("rounds", "rollback", "--studies", disk / "images", "--task", disk / "task.yaml")
    assert done.returncode == 2
    assert "no round was served" in done.stderr


def test_doctor_reads_images_in_a_subfolder(disk: Path) -> None:
    done = run("doctor", "--studies", disk, "--task", disk / "task.yaml")
    assert "1 images" in done.stdout


# ---- folders as people's computers leave them ----


def study_of(folder: Path, shared_cases: Path, name: str) -> Path:
    return Path(shutil.copytree(shared_cases / name, folder / name))


@pytest.mark.parametrize(
    ("name", "task", "said"),
    [
        ("f_mac", "two.yaml", "2 images, 2 human labels"),
        ("f_same_id", "two.yaml", "a.png: is used, because several files are called 'a': a.jpg, a.png"),
        ("n_seg_beside_image", "vol.yaml", "a.seg.nrrd: a segmentation, not an image"),
        ("f_nfd_label", "two.yaml", "1 images, 1 human labels"),
    ],
)
def test_doctor_and_refine_use_the_same_files(
    shared_cases: Path, tmp_path: Path, name: str, task: str, said: str
) -> None:
    folder = study_of(tmp_path, shared_cases, name)
    done = run("doctor", "--studies", folder, "--task", shared_cases / task)
    assert done.returncode == 0 and said in done.stdout, done.stdout
    arguments = ("--images", folder, "--masks", folder / "labels" / "final", "--task", shared_cases / task)
    done = run("refine", *arguments, "--output", tmp_path / "out", "--extension", ".seg.nrrd")
    assert done.returncode == 0, done.stdout + done.stderr
    images, labels = list_folder(folder).files, list_folder(folder / "labels" / "final", LABELS).files
    loaded = load_task(shared_cases / task)
    assert images.keys() == labels.keys()
    for case, image in images.items():
        grid = read_image(image).grid
        refined = read_masks(tmp_path / "out" / f"{case}.seg.nrrd", loaded, grid)
        assert (refined == read_masks(labels[case], loaded, grid)).all()  # the recipe of these tasks takes all as it is


def test_doctor_names_a_broken_image_among_good_ones(shared_cases: Path, tmp_path: Path) -> None:
    folder = study_of(tmp_path, shared_cases, "x_train_one_image_broken")
    done = run("doctor", "--studies", folder, "--task", shared_cases / "two.yaml")
    assert done.returncode == 1
    assert "c4.png" in done.stdout and "7 images (1 of them cannot be used), 7 human labels" in done.stdout


def bad_entries(folder: Path) -> None:
    """A cyclic link, a broken link, and a pipe, which blocks a program that opens it."""
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "lost.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")


def test_bad_file_does_not_stop_doctor_or_refine(disk: Path) -> None:
    bad_entries(disk / "images")
    bad_entries(disk / "masks")
    (disk / "images" / "b.png").write_bytes((disk / "images" / "a.png").read_bytes()[:300])
    (disk / "masks" / "b.png").write_bytes((disk / "masks" / "a.png").read_bytes())
    done = run("doctor", "--studies", disk / "images", "--task", disk / "task.yaml")
    assert done.returncode == 1
    arguments = ("--images", disk / "images", "--masks", disk / "masks", "--task", disk / "task.yaml")
    refined = run("refine", *arguments, "--output", disk / "out", "--extension", ".png")
    assert refined.returncode == 1, refined.stderr
    assert sorted(path.name for path in (disk / "out").glob("*.png")) == ["a.png"]
    for text in (done.stdout, refined.stdout):
        assert all(name in text for name in ("loop.png", "lost.png", "pipe.png", "b.png"))
    assert "Traceback" not in done.stderr + refined.stderr
    assert "2 images (1 of them cannot be used)" in done.stdout


def test_refine_of_an_unreadable_pair_is_an_error(disk: Path) -> None:
    (disk / "images" / "a.png").write_bytes(b"no image")
    arguments = ("--images", disk / "images", "--masks", disk / "masks", "--task", disk / "task.yaml")
    done = run("refine", *arguments, "--output", disk / "out")
    assert done.returncode == 2 and "a.png: not an image" in done.stderr


def test_file_names_are_not_interpreted_as_markup(disk: Path) -> None:
    (disk / "images" / "a.png").rename(disk / "images" / "a[red]?.png")
    (disk / "images" / "b[bold].png").write_bytes(b"no image")
    done = run("doctor", "--studies", disk / "images", "--task", disk / "task.yaml")
    assert "a[red]?.png: taken as" in done.stdout and "b[bold].png" in done.stdout


def test_a_forbidden_file_is_one_line(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(self: Path, *arguments: object, **options: object) -> object:
        if self.name == "b.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    (disk / "images" / "b.png").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", refuse)
    done = run("doctor", "--studies", disk / "images", "--task", disk / "task.yaml")
    assert done.returncode == 1 and "b.png: Permission denied; give user" in done.stdout


def test_doctor_reports_unwritable_places(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = disk / "images"
    (disk / "elsewhere").mkdir()
    (study / ".samstudent").mkdir()
    (study / "labels").symlink_to(disk / "elsewhere")
    access = os.access
    forbidden = {study / ".samstudent": os.W_OK}
    monkeypatch.setattr(os, "access", lambda p, mode: not mode & forbidden.get(p, 0) and access(p, mode))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 1 << 40, 5 << 20))
    done = run("doctor", "--studies", study, "--task", disk / "task.yaml")
    assert done.returncode == 1
    assert f"{study / '.samstudent'}: not writable for this user" in done.stdout
    assert "labels leads out of the study" in done.stdout
    assert "only 5 MB of free disk space" in done.stdout


def test_doctor_counts_ignored_files(disk: Path) -> None:
    study = disk / "images"
    (study / "more").mkdir()
    for i in range(3):
        (study / "more" / f"{i}.png").touch()
    (study / "copy.png").write_bytes((study / "a.png").read_bytes())
    done = run("doctor", "--studies", study, "--task", disk / "task.yaml")
    assert done.returncode == 0, done.stdout
    assert "more: subfolder with 3 images is not read" in done.stdout
    assert "copy.png: the same content as a.png" in done.stdout


def put_map(path: Path, nerve: int, vessel: int) -> None:
    """Label map written by Pillow: the nerve above, the vessel below."""
    pixels = np.zeros((24, 32), np.uint8)
    pixels[2:8, 4:12], pixels[14:20, 16:30] = nerve, vessel
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def name_values(path: Path, *names: str) -> None:
    write_sidecar(path, sha256_file(path), ValueNames(names, "client"))


@pytest.fixture
def nerves(tmp_path: Path) -> Path:
    """Study of two cases; the label maps number nerve and vessel differently, as their values files say."""
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


def test_doctor_reports_assumed_value_names(nerves: Path) -> None:
    done = run("doctor", "--studies", nerves, "--task", nerves / "nerves.yaml")
    assert done.returncode == 0, done.stdout
    said = "1 label map has no names for its values; assumed from task nerves: 1 = nerve, 2 = vessel. Check one"
    assert said in done.stdout and not list(nerves.glob("labels/final/b.png.*")), "doctor writes nothing"
    (nerves / "bones.yaml").write_text("{name: bones, dimension: 2, structures: [bone], student: {size: [32, 32]}}")
    assert run("confirm-labels", "--studies", nerves, "--task", nerves / "nerves.yaml").returncode == 0
    done = run("doctor", "--studies", nerves, "--task", nerves / "nerves.yaml")
    assert "assumed" not in done.stdout and "of 2 labels: nerve 2, vessel 2" in done.stdout
    done = run("doctor", "--studies", nerves, "--task", nerves / "bones.yaml")
    assert (
        "labels/ has labels of task nerves (nerve, vessel); task bones has its labels in labels-bones/" in done.stdout
    )
    assert "2 images, 0 human labels" in done.stdout


def test_refine_reads_value_names_of_masks(nerves: Path) -> None:
    """Also those of a renamed mask, found by its content."""
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
