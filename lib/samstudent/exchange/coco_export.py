"""Writer of COCO's annotations of instances: ``images/`` and ``annotations/instances_<split>.json``.

Format: cocodataset.org, "Data format". A structure of an image is one annotation, so that overlaps are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samstudent import __version__
from samstudent.errors import UserError
from samstudent.exchange.coco_masks import polygons_of, rle_of
from samstudent.exchange.export_format import copy_file
from samstudent.exchange.exported import PSEUDO_KEY
from samstudent.exchange.study_cases import StudyCase
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage, for_sam
from samstudent.imaging.file_names import IMAGES, split_name
from samstudent.imaging.formats import kind_of
from samstudent.task import Task
from samstudent.util.files import atomic_path, atomic_write

#: File of the images without a label, as COCO calls its own.
_UNLABELLED = "image_info_unlabelled"


class CocoExport:
    """Images and annotations of a study of 2D images.

    Category ids are the task's values. An image says which structures it does not show (``neg_category_ids``) and which
    are not annotated (``not_exhaustive_category_ids``), as in LVIS; a region where a structure is unknown is an
    annotation with ``ignore: 1``. PNG and JPEG are copied; other formats become PNG of 8 bits, in the task's
    intensities.

    Args:
        folder: folder of the export.
        task: the task.
        polygons: polygons in place of run lengths, where they stand for the same pixels.

    Raises:
        UserError: the task has volumes.
    """

    def __init__(self, folder: Path, task: Task, polygons: bool = False) -> None:
        if task.dimension == 3:
            raise UserError(f"task {task.name} has volumes; COCO holds images. Export them as nnunet or experiment")
        self.folder, self.task, self.polygons = folder, task, polygons
        self._files: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self._images = self._annotations = self._as_rle = 0

    def add(self, case: StudyCase, image: CaseImage, label: LabelledMasks | None) -> None:
        height, width = image.grid.spatial_shape
        self._images += 1
        entry: dict[str, Any] = {"id": self._images, "width": width, "height": height}
        entry["file_name"] = self._write_image(image, case.id)
        if case.kind == PSEUDO_KEY:
            entry[PSEUDO_KEY] = True
        name = _UNLABELLED if label is None else f"instances_{case.split}"
        file = self._files.setdefault(name, {"images": [], "annotations": []})
        file["images"].append(entry)
        if label is not None:
            shown = label.masks.reshape(len(label.masks), -1).any(axis=1)
            values = np.arange(1, len(shown) + 1)
            entry["neg_category_ids"] = values[label.annotated & ~shown].tolist()
            entry["not_exhaustive_category_ids"] = values[~label.annotated].tolist()
            for value, mask in enumerate(label.masks, 1):
                if mask.any():
                    file["annotations"].append(self._annotation(value, mask, self._segmentation))
            for value, mask in enumerate(() if label.ignore is None else label.ignore, 1):
                if mask.any():
                    # ``iscrowd``: COCO's own evaluation leaves such regions out.
                    unknown = self._annotation(value, mask, rle_of)
                    file["annotations"].append({**unknown, "iscrowd": 1, "ignore": 1})

    def finish(self) -> list[str]:
        info = {"description": f"{self.task.name}: {self.task.description}", "contributor": f"samstudent {__version__}"}
        categories = [
            {"id": value, "name": name, "supercategory": self.task.name} for name, value in self.task.structures.items()
        ]
        for name, file in self._files.items():
            content = {"info": info, "licenses": [], **file, "categories": categories}
            atomic_write(self.folder / "annotations" / f"{name}.json", json.dumps(content, ensure_ascii=False))
        if not self._as_rle:
            return []
        return [f"masks as run lengths: {self._as_rle}; COCO's polygons cannot hold them, e.g. for their holes"]

    def _annotation(self, value: int, mask: NDArray[np.bool_], segmentation: Callable[..., Any]) -> dict[str, Any]:
        self._annotations += 1
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        return {
            "id": self._annotations,
            "image_id": self._images,
            "category_id": value,
            "segmentation": segmentation(mask),
            "area": int(mask.sum()),
            "bbox": [int(side) for side in box],
            "iscrowd": 0,
        }

    def _segmentation(self, mask: NDArray[np.bool_]) -> Any:
        found = polygons_of(mask) if self.polygons else None
        self._as_rle += self.polygons and found is None
        return rle_of(mask) if found is None else found

    def _write_image(self, image: CaseImage, case: str) -> str:
        folder = self.folder / "images"
        path = image.path
        if path is not None and path.is_file() and kind_of(path) in ("png", "jpeg") and image.grid.orientation == 1:
            name = case + split_name(path.name, IMAGES)[1]
            copy_file(path, folder / name)
            return name
        name = f"{case}.png"
        shown = for_sam(image, self.task.image)
        grey = len(image.pixels) == 1
        with atomic_path(folder / name) as temporary:
            Image.fromarray(shown[..., 0] if grey else shown).save(temporary, format="PNG")
        return name
