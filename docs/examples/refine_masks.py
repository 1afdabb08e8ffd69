"""Refine masks with SAM, from Python: ``python docs/examples/refine_masks.py IMAGE MASK TASK OUTPUT``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from samstudent.imaging.case import for_sam, read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.sam.refiner import Refiner
from samstudent.sam.registry import load_backend
from samstudent.sam.results import Refinement
from samstudent.task import load_task


def refine_file(image_path: Path, mask_path: Path, task_name: str, output: Path) -> Refinement:
    """Write the refined masks of one image, and return them with SAM's figures for each structure."""
    task = load_task(task_name)
    image = read_image(image_path, task.dimension)
    coarse = read_masks(mask_path, task, image.grid)  # bool (structures, *spatial)
    refiner = Refiner.for_task(task, load_backend(task.sam))
    result = refiner.refine(coarse.astype(np.float32), for_sam(image, task.image), image.grid.spacing)
    write_masks(output, result.masks, task, image.grid)
    return result


if __name__ == "__main__":
    image_file, mask_file, task_argument, output_file = sys.argv[1:]
    found = refine_file(Path(image_file), Path(mask_file), task_argument, Path(output_file))
    for structure in found.structures:
        print(structure.name, structure.present, structure.predicted_iou)
