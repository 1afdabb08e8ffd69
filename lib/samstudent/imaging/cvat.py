"""Reader of annotations that CVAT exported as "CVAT for images 1.1": XML files with polygons and run-length masks.

The name of a structure is a shape's label or, where one label stands for all (as in the annotations of the paper, arXiv
2411.12602), one of its attributes. A structure may have several shapes; structures may overlap. The images themselves
are not read.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.cvat_shapes import SHAPES, Shape, whole_number
from samstudent.imaging.file_names import id_in_path, printable
from samstudent.imaging.size_checks import check_size
from samstudent.imaging.structure_names import find_structure

#: Elements of an image that are no shapes: a tag describes the whole image.
_NO_SHAPES = frozenset({"tag"})
_EXPORT = "expected a file that CVAT exported as 'CVAT for images 1.1'"


@dataclass(frozen=True)
class CvatImage:
    """Annotation of one image.

    Attributes:
        id: case id: the file name without folder and extension.
        name: name of the image as in the file.
        file: the XML file.
        size: (y, x) in pixels.
        shapes: (name of the structure, shape), in the order of the file.
    """

    id: str
    name: str
    file: Path
    size: tuple[int, int]
    shapes: tuple[tuple[str, Shape], ...]

    def masks(self, structures: Sequence[str]) -> NDArray[np.bool_]:
        """Mask of each structure: the union of its shapes.

        Args:
            structures: names, matched as in ``structure_names.find_structure``; shapes of other names are left out.

        Returns:
            bool (S, y, x); they may overlap.
        """
        masks = np.zeros((len(structures), *self.size), dtype=bool)
        for name, shape in self.shapes:
            if (found := find_structure(name, structures)) is not None:
                shape.draw(masks[list(structures).index(found)])
        return masks

    def names(self) -> Counter[str]:
        """Number of shapes of each name."""
        return Counter(name for name, _ in self.shapes)


def read_cvat(
    paths: Iterable[Path], attribute: str | None = None, faults: dict[str, str] | None = None
) -> dict[str, CvatImage]:
    """Read annotation files.

    An image may be listed in several files if only one of them has shapes of it.

    Args:
        paths: XML files.
        attribute: attribute of a shape with the name of its structure; None: the shape's label is the name.
        faults: receives the fault of an image by its case id, in place of an error that ends the reading.

    Returns:
        Annotations by case id, in the order of the files.

    Raises:
        UserError: a file is not such an export. Without ``faults`` also: a shape is not supported or not possible; the
            message names file, image and shape. An image has shapes in two files, or twice in one.
        OSError: a file cannot be read.
    """
    found: dict[str, CvatImage] = {}
    for path in paths:
        seen: set[str] = set()
        for number, element in enumerate(_images(path)):
            try:
                image = _image(path, element, number, attribute)
                first = found.get(image.id)
                if image.id in seen:
                    raise UserError(f"{path}: image {image.name!r} is there twice; expected each image once")
                if first is not None and first.shapes and image.shapes:
                    raise UserError(
                        f"{path}: image {image.name!r} is annotated in {first.file}, too; remove it from one of them"
                    )
            except UserError as error:
                if faults is None or not (name := element.get("name", "").strip()):
                    raise
                faults[id_in_path(name)] = str(error)
                continue
            seen.add(image.id)
            if first is None or not first.shapes:
                found[image.id] = image
    return found


class _NoDoctype(ET.TreeBuilder):
    """Builder that refuses a document type declaration, without which no entity can be declared.

    That excludes all entity attacks (expansion, files, network). CVAT writes none. The standard library suffices
    with it: defusedxml does the same, has had no release since 2021, and nothing here depends on it.
    """

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise UserError("has a document type declaration (<!DOCTYPE>), which may hide attacks; remove it")


def _images(path: Path) -> list[ET.Element]:
    """Elements of the images of a file."""
    root = _root(path)
    if root.tag != "annotations":
        raise UserError(f"{path}: its element is <{root.tag[:40]}>, not <annotations>; {_EXPORT}")
    if root.find("track") is not None:
        raise UserError(f"{path}: is an export 'CVAT for video 1.1'; export the task as 'CVAT for images 1.1'")
    images = root.findall("image")
    if not images:
        raise UserError(f"{path}: has no <image>; {_EXPORT}")
    return images


def _root(path: Path) -> ET.Element:
    with path.open("rb") as file:
        try:
            return ET.parse(file, parser=ET.XMLParser(target=_NoDoctype())).getroot()
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except (ET.ParseError, LookupError, ValueError) as error:
            raise UserError(f"{path}: not valid XML: {error}; {_EXPORT}") from error


def _image(path: Path, element: ET.Element, number: int, attribute: str | None) -> CvatImage:
    name = element.get("name", "").strip()
    if not name:
        raise UserError(f"{path}: image {number}: has no attribute 'name', which CVAT always writes")
    place = f"{path}: image {printable(name)}"
    with _placed(place):
        size = whole_number(element.attrib, "height"), whole_number(element.attrib, "width")
        if not all(size):
            raise ValueError(f"its size is {size[1]} x {size[0]}; expected its width and height in pixels")
    check_size(Path(place), size)
    shapes = []
    for position, child in enumerate(element, 1):
        if child.tag not in _NO_SHAPES:
            with _placed(f"{place}: shape {position}"):
                shapes.append(_shape(child, size, attribute))
    return CvatImage(id_in_path(name), name, path, size, tuple(shapes))


def _shape(element: ET.Element, size: tuple[int, int], attribute: str | None) -> tuple[str, Shape]:
    if (read := SHAPES.get(element.tag)) is None:
        raise ValueError(f"<{element.tag[:40]}> is not supported; expected {' or '.join(f'<{t}>' for t in SHAPES)}")
    name = _structure(element, attribute)
    try:
        return name, read(element.attrib, size)
    except ValueError as error:
        raise ValueError(f"{element.tag} of {name!r}: {error}") from error


def _structure(element: ET.Element, attribute: str | None) -> str:
    """Name of a shape's structure."""
    label = element.get("label", "").strip()
    if attribute is None:
        if not label:
            raise ValueError(f"{element.tag} has no attribute 'label', which CVAT always writes")
        return label
    values = {child.get("name", ""): (child.text or "").strip() for child in element.findall("attribute")}
    if not values.get(attribute):
        others = f"it has {', '.join(values)}" if values else "it has none"
        raise ValueError(f"{element.tag} of label {label!r} has no value of {attribute!r}; {others}")
    return values[attribute]


@contextmanager
def _placed(place: str) -> Iterator[None]:
    """A ValueError of the block as a UserError with file, image and shape in front."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error
