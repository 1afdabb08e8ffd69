"""Labelled folders of synthetic cases, in the form for an experiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from samstudent.task import Task
from support.drawn import shapes, small_task, write_png


def labelled_folder(folder: Path, train: int = 6, test: int = 2, *, kind: str = "labels", depth: int = 0) -> Path:
    """Cases ``case0``... of a disk (1) and a square (2); ``kind`` "labels_overlap": bits, and the shapes overlap.

    The train_order runs backwards, so that it is not the order of the names.
    """
    rows = ["id,split,train_order"]
    for number in range(train + test):
        pixels, masks = shapes(number, overlap=kind == "labels_overlap")
        values = masks[0] + 2 * masks[1] if kind == "labels_overlap" else np.where(masks[1], 2, masks[0])
        name = f"case{number}"
        if depth:
            write_volume(folder / "images" / f"{name}.nii.gz", np.stack([pixels] * depth))
            write_volume(folder / kind / f"{name}.nii.gz", np.stack([values.astype(np.uint8)] * depth))
        else:
            for part, array in (("images", pixels), (kind, values.astype(np.uint8))):
                (folder / part).mkdir(parents=True, exist_ok=True)
                write_png(folder / part / f"{name}.png", array)
        rows.append(f"{name},train,{train - number}" if number < train else f"{name},test,")
    (folder / "split.csv").write_text("\n".join(rows) + "\n")
    return folder


def write_volume(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([1.0, 1.0, 2.0, 1.0])), path)


def task_file(folder: Path, **changes: Any) -> Path:
    """A task for ``labelled_folder``, trained in seconds; JSON is YAML."""
    content = json.loads(small_task(**changes).model_dump_json())
    path = folder / "task.yaml"
    path.write_text(json.dumps(content))
    Task.model_validate(content)
    return path
