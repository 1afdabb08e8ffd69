"""A folder for ``samstudent experiment`` from films and annotations: all hands as left ones."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from samstudent.engine.store import content_key
from samstudent.errors import UserError
from samstudent.imaging.case import read_stored
from samstudent.imaging.cvat import CvatImage
from samstudent.imaging.folder import stamp_of
from samstudent.imaging.structure_names import find_structure
from samstudent.research.reproduction.split import WristSplit
from samstudent.util.files import atomic_path, atomic_write, sha256_file

console = Console()

#: File in the folder that says of what it was made; written last.
_MADE = "made_of.json"


def prepare_folder(split: WristSplit, structures: Sequence[str], folder: Path) -> list[str]:
    """Write ``images/``, ``labels_overlap/``, ``labels.json`` and ``split.csv``, unless they were written before.

    Films of right hands, and their masks, are mirrored. Films of left hands are copied. Films without a label that
    cannot be read are left out.

    Args:
        split: the films.
        structures: names of the structures; bit v - 1 of a label is the v-th of them.
        folder: folder to write; an earlier one of this function is replaced if the input changed.

    Returns:
        Remarks on films that cannot be read, on shapes that belong to none of the structures, and on structures without
        a shape.

    Raises:
        UserError: an annotated film cannot be read or mirrored, or is of another size than its annotation; the folder
            is not empty.
    """
    key = _digest(split, structures)
    made = _last_run(folder)
    if made.get("key") != key:
        if folder.exists() and any(folder.iterdir()) and not (folder / _MADE).is_file():
            raise UserError(f"{folder}: is not empty and not of an earlier run; choose another --output")
        shutil.rmtree(folder, ignore_errors=True)
        atomic_write(folder / _MADE, "{}")
        made = {"key": key, "unreadable": _write(split, structures, folder)}
        atomic_write(folder / _MADE, json.dumps(made, ensure_ascii=False, indent=1))
    unreadable = [f"left out, cannot be read: {error}" for error in made["unreadable"].values()]
    return [*unreadable, *_remarks(split, structures)]


def _write(split: WristSplit, structures: Sequence[str], folder: Path) -> dict[str, str]:
    """Write the whole folder. Returns: film without label -> why it cannot be read."""
    films = [*split.annotations, *split.unlabelled]
    unreadable = {}
    for film in track(films, "preparing films", console=console, transient=True, disable=not console.is_terminal):
        mirror, annotation = film in split.mirrored, split.annotations.get(film)
        try:
            shape = _write_image(split.images[film], folder / "images" / film, mirror)
        except UserError as error:
            if annotation is not None:
                raise
            unreadable[film] = str(error)
            continue
        if annotation is None:
            continue
        if shape != annotation.size:
            raise UserError(
                f"{split.images[film]}: has {shape[1]} x {shape[0]} pixels (width x height), but {annotation.file} "
                f"tells {annotation.size[1]} x {annotation.size[0]}; expected the image that was annotated"
            )
        _write_label(annotation, structures, folder / "labels_overlap" / f"{film}.tif", mirror)
    names = {str(value): name for value, name in enumerate(structures, 1)}
    atomic_write(folder / "labels.json", json.dumps(names, ensure_ascii=False, indent=1))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", "split", "train_order"])
    for part, some in split.parts.items():
        rows.writerows([film, part, place if part == "train" else ""] for place, film in enumerate(some, 1))
    rows.writerows([film, "train", ""] for film in split.unlabelled if film not in unreadable)
    atomic_write(folder / "split.csv", text.getvalue())
    return unreadable


def _write_image(path: Path, target: Path, mirror: bool) -> tuple[int, ...]:
    """Copy or mirror an image to ``target`` with an extension. Returns: (y, x) in pixels."""
    stored = read_stored(path)
    if len(stored.shape) != 2:
        raise UserError(f"{path}: has {stored.shape[0]} pages; expected one film")
    if not mirror:
        with atomic_path(target.with_name(target.name + path.suffix)) as copy:
            shutil.copyfile(path, copy)
    else:
        if stored.pixels.dtype not in (np.uint8, np.uint16):
            raise UserError(f"{path}: has pixels of type {stored.pixels.dtype}; expected 8 or 16 bits")
        mirrored = np.ascontiguousarray(stored.pixels[:, ::-1])
        atomic_write(target.with_name(target.name + ".png"), bytes(imagecodecs.png_encode(mirrored)))
    return stored.shape


def _write_label(annotation: CvatImage, structures: Sequence[str], path: Path, mirror: bool) -> None:
    """Write the masks as bits of one number."""
    masks = annotation.masks(structures)[..., :: -1 if mirror else 1]
    values: NDArray[Any] = np.zeros(masks.shape[1:], dtype=np.uint32 if len(masks) <= 32 else np.uint64)
    for bit, mask in enumerate(masks):
        values += mask * values.dtype.type(1 << bit)
    with atomic_path(path) as target:
        tifffile.imwrite(target, values, compression="zlib")


def _remarks(split: WristSplit, structures: Sequence[str]) -> list[str]:
    counts = sum((annotation.names() for annotation in split.annotations.values()), Counter[str]())
    others = {name: n for name, n in counts.items() if find_structure(name, structures) is None}
    remarks = []
    if others:
        names = ", ".join(sorted(others)[:3]) + (" ..." if len(others) > 3 else "")
        remarks.append(f"{sum(others.values())} shapes of names that the task does not have were left out: {names}")
    drawn = {find_structure(name, structures) for name in counts}
    if missing := [name for name in structures if name not in drawn]:
        remarks.append(f"not annotated in any film: {', '.join(missing)}")
    return remarks


def _digest(split: WristSplit, structures: Sequence[str]) -> str:
    """Digest of everything that the folder is made of."""
    parts = {part: list(films) for part, films in split.parts.items()} | {"unlabelled": list(split.unlabelled)}
    images = {film: stamp_of(split.images[film]) for films in parts.values() for film in films}
    annotations = sorted({sha256_file(file) for file in {annotation.file for annotation in split.annotations.values()}})
    return content_key(list(structures), parts, images, annotations, sorted(split.mirrored))


def _last_run(folder: Path) -> dict[str, Any]:
    """What the last complete run left in ``_MADE``; empty: there is none."""
    try:
        content = json.loads((folder / _MADE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
