"""Recognition of a format, and reading of its cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from samstudent.errors import NotFound, UserError
from samstudent.exchange import coco_source, cvat_source, folder_source, nnunet_source
from samstudent.exchange.exported import pseudo_cases
from samstudent.exchange.source import Source, without_labels

FORMATS = (nnunet_source.FORMAT, coco_source.FORMAT, cvat_source.FORMAT, folder_source.FORMAT)
_PSEUDO = "pseudo labels of an export: {}; they are not taken as labels"


@dataclass(frozen=True)
class SourceOptions:
    """Options of a source; those that a format does not have must be None.

    Attributes:
        images: folder of the images (COCO, CVAT, label files).
        values: table of values (label files).
        attribute: attribute with the name of a structure (CVAT).
        channel: the only channel to take (nnU-Net).
        empty_is_absent: an image without annotations shows no structure (COCO, CVAT).
    """

    images: Path | None = None
    values: Path | None = None
    attribute: str | None = None
    channel: str | None = None
    empty_is_absent: bool = False


#: Options that a format has.
_ALLOWED = {
    nnunet_source.FORMAT: {"channel"},
    coco_source.FORMAT: {"images", "empty_is_absent"},
    cvat_source.FORMAT: {"images", "attribute", "empty_is_absent"},
    folder_source.FORMAT: {"images", "values"},
}


def open_source(paths: Sequence[Path], format: str, options: SourceOptions) -> Source:
    """Cases of files or folders of another tool.

    Args:
        paths: a data set of nnU-Net, files of COCO or CVAT or their folder, or a folder of label files.
        format: one of ``FORMATS``, or ``auto``.
        options: options of the format.

    Raises:
        NotFound: a file or folder does not exist.
        UserError: the format is not recognised or not valid, or does not have one of the options.
        OSError: a file cannot be read.
    """
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path}: no such file or folder")
    if format == "auto":
        format = _recognised(paths)
    elif format not in FORMATS:
        raise UserError(f"--format {format}: expected auto, {', '.join(FORMATS)}")
    given = {name for name, value in vars(options).items() if value}
    if unused := sorted(given - _ALLOWED[format]):
        raise UserError(f"--{unused[0].replace('_', '-')}: format {format} does not have this option")
    source = _readers(options)[format](paths)
    return without_labels(source, pseudo_cases({folder for path in paths for folder in (path, path.parent)}), _PSEUDO)


def _readers(options: SourceOptions) -> dict[str, Callable[[Sequence[Path]], Source]]:
    def coco(paths: Sequence[Path]) -> Source:
        files = _annotation_files(paths, ".json", "a JSON file of COCO's annotations", coco_source.is_coco)
        return coco_source.read_coco(files, options.images, empty_is_absent=options.empty_is_absent)

    def cvat(paths: Sequence[Path]) -> Source:
        files = _annotation_files(paths, ".xml", "an XML file of CVAT", lambda path: True)
        return cvat_source.read_cvat_source(
            files, options.images, options.attribute, empty_is_absent=options.empty_is_absent
        )

    return {
        nnunet_source.FORMAT: lambda paths: nnunet_source.read_nnunet(_only(paths), options.channel),
        coco_source.FORMAT: coco,
        cvat_source.FORMAT: cvat,
        folder_source.FORMAT: lambda paths: folder_source.read_label_folder(
            _only(paths), options.images, options.values
        ),
    }


def _recognised(paths: Sequence[Path]) -> str:
    first = paths[0]
    if nnunet_source.is_nnunet(first):
        return nnunet_source.FORMAT
    if any(path.suffix.lower() == ".xml" for path in _files(first)):
        return cvat_source.FORMAT
    if any(path.suffix.lower() == ".json" and coco_source.is_coco(path) for path in _files(first)):
        return coco_source.FORMAT
    if folder_source.is_label_folder(first):
        return folder_source.FORMAT
    raise UserError(
        f"{first}: format not recognised; expected a data set of nnU-Net (dataset.json, imagesTr/, labelsTr/), JSON of "
        "COCO, XML of CVAT, or a folder with images/ and labels/"
    )


def _files(path: Path) -> list[Path]:
    """A file, or the files of a folder and of its ``annotations/``."""
    if not path.is_dir():
        return [path]
    return [file for folder in (path, path / "annotations") if folder.is_dir() for file in sorted(folder.iterdir())]


def _annotation_files(
    paths: Sequence[Path], extension: str, expected: str, is_one: Callable[[Path], bool]
) -> list[Path]:
    """Named files as they are; of folders those with this extension and content."""
    found = []
    for path in paths:
        named = [path] if not path.is_dir() else []
        listed = [] if named else [f for f in _files(path) if f.suffix.lower() == extension and is_one(f)]
        if not named and not listed:
            raise UserError(f"{path}: expected {expected} in it, or in its annotations/")
        found += named or listed
    return found


def _only(paths: Sequence[Path]) -> Path:
    if len(paths) > 1:
        raise UserError(f"{paths[1]}: only one folder at a time can be imported in this format")
    return paths[0]
