"""Short rounds of the real app on real images: labels, a champion, pseudo labels, a second round."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import nibabel
import pytest
import yaml

from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_ignore, read_masks
from samstudent.server.app import SamstudentApp
from samstudent.task import load_task

pytestmark = pytest.mark.training


def small(name: str, folder: Path, **student: Any) -> Path:
    """A shipped task made small enough for a test; so short a training's masks must pass the filter, too."""
    task = load_task(name).model_dump(mode="json", exclude_none=True)
    task["student"] |= student
    task["training"] |= {"steps": 8, "batch_size": 2}
    task["pseudo_labels"]["threshold"] = 0.05
    # Volumes would embed hundreds of slices.
    task["pseudo_labels"] |= {"policy": "learned" if task["dimension"] == 2 else "fixed", "folds": 2}
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(task))
    return path


def copy_part(source: Path, target: Path) -> None:
    """The six slices in the middle of a volume: SAM looks at every slice, and takes seconds for each."""
    if source.name.endswith(".nii.gz"):
        volume = nibabel.load(source)
        first = volume.shape[2] // 2 - 3
        nibabel.save(volume.slicer[:, :, first : first + 6], target)
    else:
        shutil.copyfile(source, target)


def make_study(source: Path, folder: Path, labelled: int, unlabelled: int, held: int) -> list[str]:
    """Copy a few training cases; the first get their label, and ``held`` further ones are the hold-out."""
    with (source / "split.csv").open() as file:
        rows = sorted((r for r in csv.DictReader(file) if r["split"] == "train"), key=lambda r: int(r["train_order"]))
    ids = [row["id"] for row in rows[: labelled + held + unlabelled]]
    (folder / "labels" / "final").mkdir(parents=True)
    for number, case in enumerate(ids):
        image = next((source / "images").glob(f"{case}.*"))
        copy_part(image, folder / image.name)
        if number < labelled + held:
            label = next((source / "labels").glob(f"{case}.*"))
            copy_part(label, folder / "labels" / "final" / label.name)
    splits = ["train"] * labelled + ["val"] * held + ["train"] * unlabelled
    lines = "\n".join(f"{case},{split}" for case, split in zip(ids, splits, strict=True))
    (folder / "split.csv").write_text(f"id,split\n{lines}\n")
    return ids


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("ultrasound", {"network": "unet", "size": [128, 128], "channels": [16, 32, 64]}),
        ("hippocampus", {"size": [32, 48, 32], "channels": [8, 16, 32]}),
    ],
)
def test_two_rounds_on_real_images(
    name: str, student: dict[str, Any], shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A few steps teach them next to nothing, and such teachers would be skipped.
    monkeypatch.setattr("samstudent.pseudolabels.policy.MIN_OOF_DICE", 0.0)
    task_file = small(name, tmp_path, **student)
    studies = tmp_path / "study"
    ids = make_study(shared_data / name, studies, labelled=3, unlabelled=1, held=1)
    app = SamstudentApp(str(tmp_path / "app"), str(studies), {"task": str(task_file)})

    first = app.train({"model": "student", "pseudo_labels": "off"})
    assert first["promoted"]
    second = app.train({"model": "student", "pseudo_labels": "renew"})
    ledger = app.study.ledger
    record = ledger.get(second["round"])
    assert record.labels_used == sorted(ids[:3])
    assert record.holdout_ids == ids[3:4]
    assert record.status == "done"
    assert record.dice["champion"] is not None
    champion = ledger.champion()
    assert champion is not None
    assert champion.id == (second["round"] if second["promoted"] else first["round"])

    datastore, task = app.datastore(), load_task(task_file)
    for case in ids[:4]:
        assert "pseudo" not in datastore.get_labels_by_image_id(case)
    for case in ids[4:]:
        info = datastore.get_label_info(case, "pseudo")
        made_by_champion = info["provenance"]["student"] == ledger.get(first["round"]).model_digest
        assert made_by_champion == (task.pseudo_labels.policy == "fixed")
        grid = read_image(datastore.get_image_uri(case), task.dimension).grid
        masks = read_masks(datastore.get_label_uri(case, "pseudo"), task, grid)
        ignore = read_ignore(datastore.get_label_uri(case, "pseudo"), task, grid)
        for index, structure in enumerate(task.names):
            status = info["structures"][structure]["status"]
            assert masks[index].any() == (status == "accepted")
            assert ignore[index].any() == (status == "rejected")
    assert datastore.status()["completed"] == 4
