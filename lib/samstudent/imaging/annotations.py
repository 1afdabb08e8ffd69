"""Human label with unannotated structures and regions: "not annotated" is not "absent".

The author of a label decides which structures it covers. A structure is not annotated if the label has a segment
``ignore:NAME`` in place of NAME, or if the label does not mention it and the task's ``unmentioned`` is ``unknown``
(docs/how-to/own-data.md). The case is then left out for this structure in training and in comparisons of models.
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
    """Masks of a label, and the regions where a structure is unknown.

    Attributes:
        masks: bool (S, *spatial), canonical; False where a structure is unknown.
        unknown: bool (S, *spatial), regions where a structure is unknown: the whole image if it is not annotated.
            None: no such region.
    """

    masks: NDArray[Any]
    unknown: NDArray[Any] | None = None

    @property
    def annotated(self) -> NDArray[Any]:
        """bool (S,): structures that are annotated in some region or everywhere."""
        if self.unknown is None:
            return np.ones(len(self.masks), dtype=bool)
        return np.asarray(~self.unknown.reshape(len(self.masks), -1).all(axis=1))

    @property
    def complete(self) -> NDArray[Any]:
        """bool (S,): structures that are known everywhere, with their whole size and border."""
        if self.unknown is None:
            return np.ones(len(self.masks), dtype=bool)
        return np.asarray(~self.unknown.reshape(len(self.masks), -1).any(axis=1))

    @property
    def ignore(self) -> NDArray[Any] | None:
        """bool (S, *spatial): unknown regions of structures that are annotated; None: no such region."""
        if self.unknown is None:
            return None
        regions = self.unknown & self.annotated.reshape(-1, *(1,) * (self.masks.ndim - 1))
        return regions if regions.any() else None

    def slices(self, axis: int) -> list[LabelledMasks]:
        """Labels of a volume's slices along a spatial axis, 0 for z."""
        masks = np.moveaxis(self.masks, 1 + axis, 0)
        unknown = [None] * len(masks) if self.unknown is None else np.moveaxis(self.unknown, 1 + axis, 0)
        return [LabelledMasks(*both) for both in zip(masks, unknown, strict=True)]

    def known_part(self, prediction: NDArray[Any]) -> NDArray[Any]:
        """A prediction, bool (S, *spatial), without its pixels in unknown regions."""
        return prediction if self.unknown is None else np.asarray(prediction & ~self.unknown)


def read_label(
    path: str | Path, task: Task, grid: Grid, *, names: Sequence[str] | None = None, bits: bool = False
) -> LabelledMasks:
    """Human label with its unknown regions. Arguments and errors are those of ``read_masks``.

    ``ignore:NAME`` with pixels: NAME is unknown there. Without pixels: NAME is not annotated, even if it has pixels.
    A structure is mentioned if the file has a segment of it (also an empty one); in a label map, if it is in ``names``,
    or without ``names`` if it has pixels.
    """
    path = Path(path)
    masks = read_masks(path, task, grid, names=names, bits=bits)
    in_file = _names_in(path, task)
    listed = in_file or (None if bits else names)
    marked = {found for name in listed or () if (found := marked_structure(name, IGNORE, task.names))}
    if listed is None:
        mentioned = {name for name, mask in zip(task.names, masks, strict=True) if mask.any()}
    else:
        mentioned = marked | {found for name in listed if (found := find_structure(name, task.names))}
    unmentioned = {name for name in task.names if name not in mentioned and task.unmentioned_of(name) == "unknown"}
    if not marked and not unmentioned:
        return LabelledMasks(masks)
    if not marked:
        unknown = np.zeros_like(masks)
    elif in_file:
        unknown = read_ignore(path, task, grid)
    else:
        # Pixels of other structures get a name that is no structure, so that ``read_masks`` leaves them out.
        regions = [name and (marked_structure(name, IGNORE, task.names) or REJECTED + name) for name in listed or ()]
        unknown = read_masks(path, task, grid, names=regions)
    for index, name in enumerate(task.names):
        if name in unmentioned or (name in marked and not unknown[index].any()):
            unknown[index] = True
    return LabelledMasks(masks & ~unknown, unknown)


def _names_in(path: Path, task: Task) -> list[str]:
    """Names of the segments in a .seg.nrrd or DICOM SEG; empty: a label map."""
    kind = kind_of(path)
    if kind == "nrrd":
        reader = itk_reader(path, "NrrdImageIO")
        reader.ReadImageInformation()
        return seg_nrrd.names_of({key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()})
    return dicom_seg.named_structures(path, task, IGNORE) if kind == "dicom" and dicom_seg.is_seg(path) else []
