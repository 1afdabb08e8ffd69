"""Refinement of the coarse masks in a folder by SAM, without a server."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.progress import track

from samstudent.cli.findings import console, first_names, print_finding
from samstudent.errors import NotFound, UserError, explain
from samstudent.imaging.case import for_sam, read_image
from samstudent.imaging.file_names import IMAGES, LABELS, case_id, split_name
from samstudent.imaging.folder import list_folder
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.imaging.remarks import sentences
from samstudent.imaging.value_lookup import names_in_folder
from samstudent.pseudolabels.quality_filter import structure_quality
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.refiner import Refiner
from samstudent.sam.registry import load_backend
from samstudent.task import Task, load_task


def refine_folder(images: Path, masks: Path, task_name: str, output: Path, extension: str) -> bool:
    """Refine coarse masks with SAM and write them with a table, ``quality.csv``, one row per structure.

    Args:
        images: a folder of images, or one image.
        masks: a folder with a mask for each image, with the image's name (any label format), or one mask.
        output: folder for the refined masks, ``quality.csv`` and the embeddings; created if missing.
        extension: format of the refined masks, e.g. ".seg.nrrd", ".nii.gz", ".png".

    Returns:
        False if a pair was skipped because one of its files cannot be read.

    Raises:
        NotFound: no pair of image and mask. UserError: an image has no mask; no pair can be read.
    """
    task = load_task(task_name)
    pairs = _pairs(images, masks, task)
    refiner = Refiner.for_task(task, load_backend(task.sam), EmbeddingCache(output / "embeddings"))
    written = 0
    rows: list[list[Any]] = []
    unreadable: dict[str, UserError | OSError] = {}
    for case, (image_path, mask_path) in track(pairs.items(), description="refining", console=console):
        try:
            image = read_image(image_path, task.dimension)
            coarse = read_masks(mask_path, task, image.grid, names=names_in_folder(mask_path))
        except (UserError, OSError) as error:
            print_finding("skipped", explain(error, image_path))
            unreadable[case] = error
            continue
        result = refiner.refine(coarse.astype(np.float32), for_sam(image, task.image), image.grid.spacing)
        path = output / f"{case}{extension}"
        write_masks(path, result.masks, task, image.grid)
        written += 1
        for s in result.structures:
            quality = structure_quality(s) if s.present else None
            rows.append([case, s.name, s.present, _round(s.predicted_iou), _round(s.agreement), _round(quality)])
    if unreadable and not written:
        raise next(iter(unreadable.values()))
    with (output / "quality.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "structure", "present", "predicted_iou", "agreement", "quality"])
        writer.writerows(rows)
    skipped = f"; {len(unreadable)} skipped: {first_names([*unreadable])}" if unreadable else ""
    console.print(f"{written} refined masks and quality.csv in {output}{escape(skipped)}")
    return not unreadable


def _pairs(images: Path, masks: Path, task: Task) -> dict[str, tuple[Path, Path]]:
    listed_images = list_folder(images, dimension=task.dimension, channels=task.image.sequences)
    listed_masks = list_folder(masks, LABELS)
    for line in sentences(listed_images.remarks, f"{images}/") + sentences(listed_masks.remarks, f"{masks}/"):
        print_finding("note", line)
    image_by_id, mask_by_id = listed_images.files, listed_masks.files
    if images.is_file() and masks.is_file() and len(image_by_id) == 1:
        ((case, image),) = image_by_id.items()
        return {case: (image, masks)}
    faulty = {case_id(split_name(remark.name, LABELS)[0]) for remark in listed_masks.remarks if remark.is_fault}
    if missing := sorted(set(image_by_id) - set(mask_by_id) - faulty):
        raise UserError(f"{masks}: no mask for {first_names(missing)}")
    if not image_by_id:
        raise NotFound(f"{images}: no image in this folder ({', '.join(IMAGES)})")
    return {case: (path, mask_by_id[case]) for case, path in image_by_id.items() if case in mask_by_id}


def _round(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)
