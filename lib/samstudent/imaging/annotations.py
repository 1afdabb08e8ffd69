"""A human's label with what it leaves open: "not annotated" is not "absent".

Which structures a label speaks of is its author's word. A structure is not annotated where the label says so, with the
name ``ignore:NAME`` in place of NAME, or where the label does not mention it and the task's ``unmentioned`` says that
this means nothing (docs/how-to/own-data.md). Of such a structure the case teaches nothing, and tells nothing when
models are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.imaging import dicom_seg, seg_nrrd
from samstudent.imaging.formats import itk_reader, kind_of
from samstudent.imaging.grid import Grid
from samstudent.imaging.labels import read_ignore, read_masks
from samstudent.imaging.structure_names import IGNORE, REJECTED, find_structure, marked_structure
from samstudent.task import Task


@dataclass(frozen=True, eq=False)
class LabelledMasks:
    """What a label says.

    Attributes:
        masks: bool (S, *spatial), canonical; False where a structure is unknown.
        unknown: bool (S, *spatial), where nothing is said of a structure; of one that is not annotated that is
            everywhere. None: nowhere.
    """

    masks: NDArray[Any]
    unknown: NDArray[Any] | None = None

    @property
    def annotated(self) -> NDArray[Any]:
        """bool (S,): structures of which anything is said."""
        if self.unknown is None:
            return np.ones(len(self.masks), dtype=bool)
        return np.asarray(~self.unknown.reshape(len(self.masks), -1).all(axis=1))

    @property
    def complete(self) -> NDArray[Any]:
        """bool (S,): structures that are known everywhere, so that their size and border are."""
        if self.unknown is None:
            return np.ones(len(self.masks), dtype=bool)
        return np.asarray(~self.unknown.reshape(len(self.masks), -1).any(axis=1))

    @property
    def ignore(self) -> NDArray[Any] | None:
        """bool (S, *spatial): the regions where structures that are annotated are unknown; None: there is none."""
        if self.unknown is None:
            return None
        regions = self.unknown & self.annotated.reshape(-1, *(1,) * (self.masks.ndim - 1))
        return regions if regions.any() else None

    def known_part(self, prediction: NDArray[Any]) -> NDArray[Any]:
        """A prediction, bool (S, *spatial), without what cannot be judged by this label."""
        return prediction if self.unknown is None else np.asarray(prediction & ~self.unknown)


def read_label(
    path: str | Path, task: Task, grid: Grid, *, names: Sequence[str] | None = None, bits: bool = False
) -> LabelledMasks:
    """A human's label, with the structures that it leaves open. Arguments and errors are those of ``read_masks``.

    ``ignore:NAME`` with pixels: NAME is unknown there. Without any: NAME is not annotated, whatever is drawn of it.
    Mentioned are the segments that the file names, empty ones too, else ``names``, else what has pixels.
    """
    path = Path(path)
    masks = read_masks(path, task, grid, names=names, bits=bits)
    in_file = _names_in(path, task)
    told = in_file or (None if bits else names)
    marked = {found for name in told or () if (found := marked_structure(name, IGNORE, task.names))}
    if told is None:
        mentioned = {name for name, mask in zip(task.names, masks, strict=True) if mask.any()}
    else:
        mentioned = marked | {found for name in told if (found := find_structure(name, task.names))}
    unsaid = {name for name in task.names if name not in mentioned and task.unmentioned_of(name) == "unknown"}
    if not marked and not unsaid:
        return LabelledMasks(masks)
    if not marked:
        unknown = np.zeros_like(masks)
    elif in_file:
        unknown = read_ignore(path, task, grid)
    else:
        # Under a name that is no structure's, the pixels of all others are left out.
        regions = [name and (marked_structure(name, IGNORE, task.names) or REJECTED + name) for name in told or ()]
        unknown = read_masks(path, task, grid, names=regions)
    for index, name in enumerate(task.names):
        if name in unsaid or (name in marked and not unknown[index].any()):
            unknown[index] = True
    return LabelledMasks(masks & ~unknown, unknown)


def _names_in(path: Path, task: Task) -> list[str]:
    """The names of the segments of a .seg.nrrd or DICOM SEG that ``read_masks`` has read; empty: a label map."""
    kind = kind_of(path)
    if kind == "nrrd":
        reader = itk_reader(path, "NrrdImageIO")
        reader.ReadImageInformation()
        return seg_nrrd.names_of({key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()})
    return dicom_seg.named_structures(path, task, IGNORE) if kind == "dicom" and dicom_seg.is_seg(path) else []
