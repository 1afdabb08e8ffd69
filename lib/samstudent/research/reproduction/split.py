"""The paper's split of the wrist films: an ordered list to train, files of annotations to validate and to test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samstudent.errors import UserError
from samstudent.imaging.cvat import CvatImage, read_cvat
from samstudent.imaging.folder import list_folder
from samstudent.research.reproduction.films import View, read_dataset, read_films, view_in_name
from samstudent.rounds.holdout import SPLITS

#: Attribute of the paper's annotations with the name of the bone.
ATTRIBUTE = "Anatomie"
#: Film of the paper's test annotations that its evaluation leaves out: the hand is rotated as no other.
ROTATED = "0172_0304693626_01_WRI-R1_F014"
#: Numbers of films in the paper.
PAPER_SPLIT = {"train": 43, "val": 12, "test": 11}
#: Image files that can be mirrored.
IMAGE_FILES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")


@dataclass(frozen=True)
class WristFiles:
    """Input of the reproduction.

    Attributes:
        images: folder of the films, as they come: right hands not mirrored.
        annotations: exports of CVAT.
        order: CSV of the films to train, in the order of labelling; may have a column ``split``.
        dataset: ``dataset.csv`` of GRAZPEDWRI-DX; None: side and projection are those in the films' names.
        unlabelled: CSV of the films that are used without labels; None: all frontal films without annotation.
        left_out: annotated films that are not used.
    """

    images: Path
    annotations: Sequence[Path]
    order: Path
    dataset: Path | None = None
    unlabelled: Path | None = None
    left_out: Sequence[str] = (ROTATED,)


@dataclass(frozen=True)
class WristSplit:
    """Films of each part.

    Attributes:
        parts: ``train`` in the order of labelling, ``val`` and ``test``.
        unlabelled: films to train on without a label, sorted.
        annotations: annotation of each film of the parts.
        images: image of each film.
        mirrored: films of right hands.
        remarks: films that were left out.
    """

    parts: Mapping[str, Sequence[str]]
    unlabelled: Sequence[str]
    annotations: Mapping[str, CvatImage]
    images: Mapping[str, Path]
    mirrored: frozenset[str]
    remarks: Sequence[str]

    def difference_from_paper(self) -> str | None:
        """Numbers of films if they are not the paper's; None: they are."""
        numbers = {part: len(films) for part, films in self.parts.items()}
        if numbers == PAPER_SPLIT:
            return None
        here, paper = (", ".join(f"{n} {part}" for part, n in found.items()) for found in (numbers, PAPER_SPLIT))
        return f"films: {here}; the paper has {paper}"


def make_split(files: WristFiles) -> WristSplit:
    """Read annotations and lists, and assign the films.

    A film to train is a row of ``order`` whose ``split`` is empty or train. A film to validate or to test is a row
    with that split, or a frontal film that is annotated in a file with val or test in its name. Other annotated films
    are not used.

    Raises:
        UserError: a file that cannot be read or does not fit the others.
    """
    annotations = read_cvat(files.annotations, ATTRIBUTE)
    images = list_folder(files.images, IMAGE_FILES).files
    views = _views(images, files.dataset)
    parts = _parts(files, annotations, views)
    remarks = _remarks(parts, annotations, files.left_out)
    used = [film for films in parts.values() for film in films]
    for film in used:
        _check(film, annotations[film], images, views, files)
    listed = list(images) if files.unlabelled is None else list(read_films(files.unlabelled))
    if missing := [film for film in listed if film not in images]:
        raise UserError(f"{files.unlabelled}: {_some(missing)}: no image of this name in {files.images}")
    free = [film for film in listed if film not in annotations]
    if unknown := [film for film in free if film not in views]:
        remarks.append(f"{_some(unknown)}: side not known, so not used; give --dataset")
    unlabelled = sorted(film for film in free if film in views and views[film].frontal)
    mirrored = frozenset(film for film in (*used, *unlabelled) if views[film].right)
    return WristSplit(parts, unlabelled, {film: annotations[film] for film in used}, images, mirrored, remarks)


def _views(films: Mapping[str, Path], dataset: Path | None) -> dict[str, View]:
    """View of each film by ``dataset.csv``, else by its name; without those whose view is not known."""
    table = {} if dataset is None else read_dataset(dataset)
    views = {film: table.get(film) or view_in_name(film) for film in films}
    return {film: view for film, view in views.items() if view is not None}


def _parts(files: WristFiles, annotations: Mapping[str, CvatImage], views: Mapping[str, View]) -> dict[str, list[str]]:
    rows = {film: row.get("split", "") or "train" for film, row in read_films(files.order).items()}
    if wrong := {part for part in rows.values() if part not in SPLITS}:
        raise UserError(f"{files.order}: split {sorted(wrong)[0]!r}; expected {', '.join(SPLITS)} or nothing")
    if missing := [film for film in rows if film not in annotations]:
        raise UserError(f"{files.order}: {_some(missing)}: not annotated in {', '.join(map(str, files.annotations))}")
    by_file = {path: _part_in_name(path) for path in files.annotations}
    parts: dict[str, list[str]] = {part: [] for part in SPLITS}
    for film, part in rows.items():
        if by_file[annotations[film].file] not in (None, part):
            raise UserError(f"{files.order}: {film} is to {part}, but is annotated in {annotations[film].file}")
        parts[part].append(film)
    for film, annotation in annotations.items():
        named = by_file[annotation.file]
        is_lateral = film in views and not views[film].frontal
        if film not in rows and named in ("val", "test") and annotation.shapes and not is_lateral:
            parts[named].append(film)
    parts = {part: [film for film in films if film not in files.left_out] for part, films in parts.items()}
    for part in ("train", "test"):
        if not parts[part]:
            raise UserError(
                f"{files.order}: no film to {part}; expected {part} in the name of a file of annotations, or a column "
                "split (train, val, test)"
            )
    return parts


def _part_in_name(path: Path) -> str | None:
    """Part that the name of an annotation file states: annotations_train1.xml, annotations_val.xml; None: no part."""
    words = re.findall(r"(?<![a-z])(train|val|test)(?:idation|ing)?(?![a-z])", path.stem.lower())
    return words[0] if len(set(words)) == 1 else None


def _check(
    film: str, annotation: CvatImage, images: Mapping[str, Path], views: Mapping[str, View], files: WristFiles
) -> None:
    """Raises UserError if an annotated film cannot be used."""
    if film not in images:
        raise UserError(f"{files.images}: no image {film} ({', '.join(IMAGE_FILES)}); {annotation.file} annotates it")
    if not annotation.shapes:
        raise UserError(f"{annotation.file}: image {film} has no shapes; take it out of {files.order}, or annotate it")
    if film not in views:
        raise UserError(
            f"{images[film]}: side not known; expected a name with _WRI-L1_ or _WRI-R1_, or a row in --dataset"
        )
    if not views[film].frontal:
        raise UserError(f"{images[film]}: not a frontal film; take it out of {files.order} and {annotation.file}")


def _remarks(
    parts: Mapping[str, Sequence[str]], annotations: Mapping[str, CvatImage], left_out: Sequence[str]
) -> list[str]:
    """Remarks on annotated films that are not used."""
    remarks = [f"{film}: left out, as in the paper" for film in left_out if film in annotations]
    used = {film for films in parts.values() for film in films} | set(left_out)
    if others := [film for film in annotations if film not in used]:
        remarks.append(f"{_some(others)}: annotated, but in no part of the split, so not used")
    return remarks


def _some(films: Sequence[str]) -> str:
    """The first films by name, for messages."""
    return ", ".join(films[:3]) + (f" and {len(films) - 3} more" if len(films) > 3 else "")
