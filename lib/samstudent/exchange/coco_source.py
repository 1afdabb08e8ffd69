"""Reader of COCO's annotations of instances, as a source of an import.

Format: cocodataset.org, "Data format", object detection; and two keys of LVIS (lvisdataset.org) by which an image
states what it does not show: ``neg_category_ids``, and what is not annotated: ``not_exhaustive_category_ids``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.exchange.coco_masks import mask_of
from samstudent.exchange.exported import PSEUDO_KEY
from samstudent.exchange.image_search import ImageSearch
from samstudent.exchange.source import Source, SourceCase, check_size, is_test_file, labelled_masks, unique_cases
from samstudent.imaging import size_checks
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.file_names import id_in_path
from samstudent.imaging.grid import Grid
from samstudent.imaging.structure_names import IGNORE, find_structure
from samstudent.task import Task

FORMAT = "coco"
_EXPECTED = "expected COCO's annotations of instances: an object with images, annotations and categories"


@dataclass(frozen=True)
class Annotation:
    """One annotation of an image.

    Attributes:
        id: in the file, for messages.
        name: of the category.
        segmentation: JSON values; None: only a box.
        is_ignored: the structure is unknown in these pixels.
    """

    id: Any
    name: str
    segmentation: Any
    is_ignored: bool = False


@dataclass(frozen=True)
class CocoLabel:
    """Annotations of one image.

    Attributes:
        place: file and image, for messages.
        size: (y, x) in pixels.
        annotations: those of the image, in the order of the file.
        absent: names that the file says the image does not show.
        left_open: names that the file says are not annotated in the image.
    """

    place: str
    size: tuple[int, int]
    annotations: tuple[Annotation, ...]
    absent: tuple[str, ...] = ()
    left_open: tuple[str, ...] = ()

    def names(self) -> dict[str, int]:
        counts = Counter(annotation.name for annotation in self.annotations)
        return {**dict.fromkeys((*self.absent, *self.left_open), 0), **counts}

    def read(self, task: Task, grid: Grid) -> LabelledMasks:
        """Masks of the task's structures, unions of their annotations; a structure with a box only is not annotated.

        Raises:
            UserError: the image has another size, or a segmentation cannot be read.
        """
        check_size(self.size, grid, self.place)
        masks = np.zeros((len(task.names), *self.size), dtype=bool)
        unknown = np.zeros_like(masks)
        for annotation in self.annotations:
            structure = find_structure(annotation.name, task.names)
            if structure is not None and annotation.segmentation:
                drawn = unknown if annotation.is_ignored else masks
                drawn[task.structures[structure] - 1] |= self._mask(annotation)
        boxes = [annotation.name for annotation in self.annotations if not annotation.segmentation]
        mentioned = (
            [a.name for a in self.annotations] + [*self.absent] + [IGNORE + n for n in (*boxes, *self.left_open)]
        )
        return labelled_masks(masks, mentioned, task, unknown)

    def _mask(self, annotation: Annotation) -> NDArray[np.bool_]:
        try:
            return mask_of(annotation.segmentation, self.size)
        except ValueError as error:
            raise UserError(f"{self.place}: annotation {annotation.id} of {annotation.name!r}: {error}") from error


def is_coco(path: Path) -> bool:
    """Whether a JSON file seems to have COCO's annotations, by its keys."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content)


def read_coco(files: Sequence[Path], images: Path | None, *, empty_is_absent: bool = False) -> Source:
    """Read annotation files of COCO; no mask is decoded.

    Args:
        files: JSON files; an image may be listed in several if only one of them annotates it. Those with ``test`` in
            their name have test cases.
        images: folder of the images; None: searched beside the files.
        empty_is_absent: an image without annotations shows no structure; False: it is not annotated.

    Raises:
        UserError: not of this format; the message names file and key.
        OSError: a file cannot be read.
    """
    search = ImageSearch(images, files)
    cases, names, pseudo = [], dict[str, None](), 0
    for file in files:
        content = _content(file)
        categories = {_key(item, "id", file): str(_key(item, "name", file)).strip() for item in content["categories"]}
        names |= dict.fromkeys(categories.values())
        by_image: dict[Any, list[Annotation]] = {}
        for item in content["annotations"]:
            by_image.setdefault(_key(item, "image_id", file), []).append(_annotation(item, categories, file))
        for image in content["images"]:
            found = _case(image, by_image.pop(_key(image, "id", file), []), categories, file, search, empty_is_absent)
            pseudo += bool(image.get(PSEUDO_KEY))
            cases.append(found)
        if by_image:
            raise UserError(f"{file}: annotations: image_id {next(iter(by_image))} is not in images")
    remarks = (f"pseudo labels of an export: {pseudo}; they are not taken as labels",) if pseudo else ()
    return Source(FORMAT, tuple(files), unique_cases(cases), overlap=True, names=tuple(names), remarks=remarks)


def _content(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON: {error}; {_EXPECTED}") from error
    for key in ("images", "annotations", "categories"):
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise UserError(f"{file}: {key}: missing or no list of objects; {_EXPECTED}")
    return dict(content)


def _annotation(item: Mapping[str, Any], categories: Mapping[Any, str], file: Path) -> Annotation:
    category = _key(item, "category_id", file)
    if category not in categories:
        raise UserError(f"{file}: annotation {item.get('id')}: category_id {category} is not in categories")
    return Annotation(item.get("id"), categories[category], item.get("segmentation"), bool(item.get("ignore")))


def _case(
    image: Mapping[str, Any],
    annotations: Sequence[Annotation],
    categories: Mapping[Any, str],
    file: Path,
    search: ImageSearch,
    empty_is_absent: bool,
) -> SourceCase:
    name = str(_key(image, "file_name", file))
    place = f"{file}: image {name!r}"
    size = _side(image, "height", place), _side(image, "width", place)
    absent, left_open = (
        tuple(categories[category] for category in _ids(image, key, place) if category in categories)
        for key in ("neg_category_ids", "not_exhaustive_category_ids")
    )
    label = None
    if (annotations or absent or left_open or empty_is_absent) and not image.get(PSEUDO_KEY):
        size_checks.check_size(Path(place), size)
        label = CocoLabel(place, size, tuple(annotations), absent, left_open)
    found = search.find(name)
    is_test = label is not None and is_test_file(file)
    return SourceCase(id_in_path(name), () if found is None else (found,), label, is_test, name)


def _ids(image: Mapping[str, Any], key: str, place: str) -> list[Any]:
    """Ids of categories in an optional key of an image."""
    found = image.get(key) or []
    if not isinstance(found, list) or not all(isinstance(id, (int, str)) for id in found):
        raise UserError(f"{place}: {key}: expected a list of category ids, not {str(found)[:40]}")
    return found


def _side(image: Mapping[str, Any], key: str, place: str) -> int:
    value = image.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{place}: {key}: expected a number of pixels, not {value!r}")
    return value


def _key(item: Mapping[str, Any], key: str, file: Path) -> Any:
    """Value of a key that an object must have; it identifies something, so that it is a number or text."""
    if not isinstance(value := item.get(key), (int, str)):
        raise UserError(f"{file}: {key}: missing, or neither number nor text, in {str(dict(item))[:80]}; {_EXPECTED}")
    return value
