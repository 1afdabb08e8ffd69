"""Task derived from the images and the first labelled cases of a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.exchange.value_table import read_table, structure_name
from samstudent.imaging.case import read_image
from samstudent.imaging.labels import stored_values
from samstudent.imaging.structure_names import IGNORE, REJECTED
from samstudent.imaging.value_lookup import names_in_folder
from samstudent.research.folder import Folder
from samstudent.task import ENCODER_REDUCTION, Task

#: Pixels of a student's image, unless structures are too small.
_PIXELS = 256**2
#: A structure narrower than this many pixels (square root of its area) needs a larger student: a border on
#: whole pixels is off by a quarter of a pixel, which costs a square w pixels wide about 1 / (2 w) of Dice.
_WIDTH = 20
#: Largest factor by which small structures enlarge the image; time and memory grow as much.
_MOST = 2.25
#: Largest number of voxels of the student's sliding window, and of a whole volume.
_WINDOW, _VOLUME = 64 * 96 * 96, 160**3
#: Least side in pixels: a student with five levels needs two pixels on the lowest one.
_SHORTEST = 32
#: Least mean difference of red, green and blue, as a share of the range, of a true colour image.
_COLOUR = 0.03


def derive_task(folder: Folder, labelled: Sequence[str], size: Sequence[int] | None = None) -> tuple[Task, Folder]:
    """Derive a task from the images and the first labelled cases of a folder.

    - Dimension: the images'. Colour only if red, green and blue differ clearly.
    - Structures: the values (or bits) found in the labels of all train cases, named by ``imaging.labels.json``,
      ``structures.txt`` or ``dataset.json`` if there is one, else ``structure_<value>``. Those of labels_overlap/ may
      overlap.
    - 2D student: the images' median aspect with about 256 x 256 pixels; up to 2.25 times as many where the smaller
      structures (lower quartile of the medians over ``labelled``) would be narrower than 20 pixels; never more than the
      images have.
    - 3D student: the median voxel size (coarser where a volume would exceed 160^3 voxels) and a window of the size of
      the median volume, at most 64 x 96 x 96 voxels.

    Everything else has the defaults of the task file.

    Args:
        folder: the labelled folder.
        labelled: cases whose labels are used for the sizes of structures.
        size: replaces the derived ``student.size``.

    Returns:
        The task, and the folder with the names of its label values.
    """
    values, names = _values(folder)
    names_in_file = _names_in_file(folder.path)
    if names is None:
        if folder.bits:
            # Bits are read by position: an unused bit below the highest one is a structure, too.
            values = list(range(1, max(values) + 1))
        names = {value: names_in_file.get(value, f"structure_{value}") for value in values}
    dimension = read_image(folder.images[labelled[0]]).grid.dimension
    task = Task.model_validate(
        {
            "name": re.sub(r"[^A-Za-z0-9_-]", "_", folder.path.resolve().name).lstrip("_-")[:64] or "experiment",
            "description": f"derived from {folder.path.name}",
            "dimension": dimension,
            "structures": list(dict.fromkeys(names.values())),
            "overlap": folder.bits,
            "student": {"size": (64,) * dimension},
        }
    )
    # A value that no train case has keeps its place, with a name that the task does not have.
    highest = max(names) if folder.bits else max(250, *names)
    value_names = tuple(names.get(value, f"unused {value}") for value in range(1, highest + 1))
    folder = replace(folder, value_names=value_names)
    cases = [folder.case(case).read(task) for case in labelled[:30]]
    content = task.model_dump(mode="json")
    content["image"]["channels"] = 3 if np.median([_colour(image.pixels) for image, _ in cases]) > _COLOUR else 1
    shapes = np.array([image.grid.spatial_shape for image, _ in cases], dtype=float)
    if task.dimension == 2:
        shares = [label.masks.reshape(len(label.masks), -1).mean(1) for _, label in cases if label is not None]
        content["student"]["size"] = size or student_size(np.median(shapes, 0), np.array(shares))
    else:
        spacing, window = student_window(shapes, np.array([image.grid.spacing for image, _ in cases]))
        content["student"] |= {"spacing": spacing, "size": size or window}
        content["training"]["batch_size"] = 4
    return Task.model_validate(content), folder


def student_size(shape: NDArray[Any], shares: NDArray[Any]) -> tuple[int, ...]:
    """``student.size`` of images of ``shape`` (y, x), see ``derive_task``.

    Args:
        shares: (cases, S) share of the image that each structure covers; 0: absent.
    """
    widths = [np.sqrt(np.median(column[column > 0]) * _PIXELS) for column in shares.T if column.any()]
    needed = (_WIDTH / np.percentile(widths, 25)) ** 2 if widths else 1.0
    pixels = min(_PIXELS * float(np.clip(needed, 1, _MOST)), float(np.prod(shape)))
    factor = (pixels / np.prod(shape)) ** 0.5
    return tuple(max(_SHORTEST, ENCODER_REDUCTION * round(side * factor / ENCODER_REDUCTION)) for side in shape)


def student_window(shapes: NDArray[Any], spacings: NDArray[Any]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """``student.spacing`` in mm and ``student.size`` in voxels for volumes (cases, 3), see ``derive_task``."""
    spacing = np.median(spacings, 0)
    volume = np.median(shapes * spacings, 0) / spacing
    coarser = max(1.0, float(np.prod(volume) / _VOLUME)) ** (1 / 3)
    window = [max(_SHORTEST, 16 * int(np.ceil(n / 16))) for n in volume / coarser]
    while np.prod(window) > _WINDOW:
        window[int(np.argmax(window))] -= 16
    return tuple(round(float(s * coarser), 4) for s in spacing), tuple(window)


def _values(folder: Folder) -> tuple[list[int], dict[int, str] | None]:
    """Values above 0 (or numbers of bits) in the train labels, and their names if they are in the files or beside
    them."""
    found: dict[int, str | None] = {}
    for case in folder.labelled("train"):
        values, names = stored_values(folder.labels[case])
        if names:
            drawn = [i for i, name in enumerate(names) if not name.lower().startswith((IGNORE, REJECTED))]
            values, names = values[drawn], [names[i] for i in drawn]
        if folder.bits:
            together = int(np.bitwise_or.reduce(values)) if len(values) else 0
            values = np.array([bit + 1 for bit in range(together.bit_length()) if together >> bit & 1])
        elif names is None and (beside := names_in_folder(folder.labels[case])) is not None:
            values = np.array([value for value in values if value])
            names = [beside[value - 1] for value in values]
        for i, value in enumerate(values):
            if names and names[i] not in found.values():
                # Cases may number the same structures differently; all of them are read by name.
                found[int(value) if int(value) not in found else max(found) + 1] = names[i]
            elif not names and value > 0:
                found.setdefault(int(value), None)
    if not found:
        raise UserError(f"{folder.path}: no label of a train case has pixels")
    if max(found) > 250 and len(found) > 250:
        raise UserError(f"{folder.path}: {len(found)} different label values; labels are maps of up to 250 structures")
    named = {value: name for value, name in sorted(found.items()) if name}
    return sorted(found), named if len(named) == len(found) else None


def _names_in_file(path: Path) -> dict[int, str]:
    """Names by value from labels.json, dataset.json (nnU-Net's or the Decathlon's form) or structures.txt."""
    file = next(
        (path / name for name in ("labels.json", "dataset.json", "structures.txt") if (path / name).is_file()), None
    )
    clean = {value: structure_name(name) for value, name in (read_table(file) if file else {}).items()}
    return {value: name for value, name in clean.items() if name}


def _colour(pixels: NDArray[Any]) -> float:
    if len(pixels) == 1:
        return 0.0
    return float(np.ptp(pixels, axis=0).mean() / max(float(np.ptp(pixels)), 1e-6))
