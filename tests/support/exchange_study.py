"""Studies with drawn cases and human labels, for exports and imports, and the commands on them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from samstudent.cli.main import main
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.structure_names import IGNORE
from samstudent.rounds.study import Study
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.open_datastore import open_datastore
from samstudent.server.tasks.study_round import DatastoreCase
from samstudent.task import Task
from support.drawn import shapes, small_task, write_png
from support.drawn_folder import write_volume

#: Structures of the drawn cases.
NAMES = ("disk", "square")


@dataclass(frozen=True)
class DrawnData:
    """A study folder with its task file."""

    folder: Path
    task: Task
    task_file: Path

    def opened(self) -> tuple[Study, StudyFolderDatastore]:
        study = Study(str(self.folder), str(self.folder / ".samstudent" / "app"), self.task)
        return study, open_datastore(study, str(self.folder), watch=False)

    def labels(self) -> dict[str, LabelledMasks]:
        """Human labels by case, as a training reads them."""
        _, datastore = self.opened()
        found = {}
        for case in datastore.get_labeled_images():
            found[case] = DatastoreCase(case, datastore, None, labelled=True).read(self.task)[1]
        return {case: label for case, label in found.items() if label is not None}

    def images(self) -> list[str]:
        return sorted(self.opened()[1].list_images())

    def label(self, case: str, masks: NDArray[Any], unknown: NDArray[Any] | None = None) -> None:
        """Save a human label."""
        _, datastore = self.opened()
        path = self.folder.parent / "label.seg.nrrd"
        grid = read_image(datastore.get_image_uri(case)).grid
        write_masks(path, masks, self.task, grid, marked=None if unknown is None else {IGNORE: unknown})
        datastore.save_label(case, str(path), "final", {})


def empty_study(folder: Path, task: Task) -> DrawnData:
    """Study without images. The task file is beside it."""
    folder.mkdir(parents=True)
    task_file = folder.parent / f"{folder.name}.yaml"
    task_file.write_text(json.dumps(task.model_dump(mode="json")))
    return DrawnData(folder, task, task_file)


def drawn_study(folder: Path, *, overlap: bool = False, depth: int = 0, count: int = 3, **changes: Any) -> DrawnData:
    """Study of ``count`` labelled cases c0, c1, ... and one without a label, u.

    Args:
        folder: of the study.
        overlap: the two structures share pixels.
        depth: number of slices; 0: images.
        changes: keys of the task.
    """
    if depth:
        changes = {"dimension": 3, "student": {"size": [32, 32, 32], "channels": [8, 16]}} | changes
    data = empty_study(folder, small_task(overlap=overlap, **changes))
    for seed in range(count + 1):
        case = f"c{seed}" if seed < count else "u"
        pixels, masks = shapes(seed, (48, 64), overlap=overlap)
        if depth:
            # No symmetry along the slices, so that a flip is noticed.
            volume = np.stack([np.roll(pixels, z, axis=1) for z in range(depth)])
            write_volume(folder / f"{case}.nii.gz", volume)
            masks = np.stack([np.roll(masks, z, axis=2) for z in range(depth)], axis=1)
            masks[:, 0] = False
        else:
            write_png(folder / f"{case}.png", pixels)
        if case != "u":
            data.label(case, masks)
    return data


def run_command(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and output of a command, in this process."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(output):
        patch.setattr(sys, "argv", ["samstudent", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return code, output.getvalue()


def export(data: DrawnData, output: Path, *options: str) -> str:
    """Export a study; returns what was printed."""
    code, text = run_command(
        "export", "data", "--studies", data.folder, "--task", data.task_file, "--output", output, *options
    )
    assert code == 0, text
    return text


def import_into(data: DrawnData, *source: str | Path, code: int = 0) -> dict[str, Any]:
    """Import files or folders, with options, into a study; returns the report, with the printed text in ``text``."""
    report = data.folder.parent / "report.json"
    found, text = run_command("import", *source, "--studies", data.folder, "--task", data.task_file, "--report", report)
    assert found == code, text
    content: dict[str, Any] = json.loads(report.read_text())
    return {**content, "text": " ".join(text.split())}


def assert_same(found: Mapping[str, LabelledMasks], expected: Mapping[str, LabelledMasks]) -> None:
    """Same masks and unknown regions to the pixel, for the same cases."""
    assert sorted(found) == sorted(expected)
    for case, label in expected.items():
        assert (found[case].masks == label.masks).all(), case
        unknown, known = found[case].unknown, label.unknown
        assert (unknown is None) == (known is None), case
        assert unknown is None or known is None or (unknown == known).all(), case
