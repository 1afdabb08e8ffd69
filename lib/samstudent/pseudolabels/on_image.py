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

    The working grid of ``labelling.label_case`` is coarser than a radiograph. Masks are enlarged from probabilities,
    otherwise their borders would have steps.

    Args:
        label: on the image's or the working grid.
        image: of the case.
        overlap: the task's; False: no pixel of ``masks`` or of ``raw`` belongs to two structures.
    """
    shape = image.grid.spatial_shape
    if label.masks.shape[1:] == shape:
        return OnImage(label.masks, label.ignore, label.raw, label.rejected)
    size = (shape[0], shape[1])
    soft = np.where(label.masks.any(axis=(1, 2), keepdims=True), label.soft, 0)
    masks, raw = enlarged_masks(soft, size, overlap), enlarged_masks(label.raw, size, overlap)
    return OnImage(masks, enlarged_masks(label.ignore, size, True), raw, enlarged_masks(label.rejected, size, True))
