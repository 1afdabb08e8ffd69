"""Masks of a pseudo label on the grid of its image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from samstudent.imaging.case import CaseImage
from samstudent.pseudolabels.case import PseudoLabel
from samstudent.sam.prompts import Mask
from samstudent.sam.working_grid import enlarged_masks


class OnImage(NamedTuple):
    """A pseudo label's masks bool (S, *spatial) on the image's own grid; fields as of ``PseudoLabel``."""

    masks: Mask
    ignore: Mask
    raw: Mask
    rejected: Mask


def on_image(label: PseudoLabel, image: CaseImage, overlap: bool) -> OnImage:
    """Masks of a pseudo label on the image's own grid.

    ``labelling.label_case`` works on fewer pixels than a radiograph has. Masks are enlarged as probabilities, else
    their borders would show the working grid's steps.

    Args:
        overlap: the task's; False: no pixel of ``masks`` or of ``raw`` belongs to two structures.
    """
    shape = image.grid.spatial_shape
    if label.masks.shape[1:] == shape:
        return OnImage(label.masks, label.ignore, label.raw, label.rejected)
    size = (shape[0], shape[1])
    soft = np.where(label.masks.any(axis=(1, 2), keepdims=True), label.soft, 0)
    masks, raw = enlarged_masks(soft, size, overlap), enlarged_masks(label.raw, size, overlap)
    return OnImage(masks, enlarged_masks(label.ignore, size, True), raw, enlarged_masks(label.rejected, size, True))
