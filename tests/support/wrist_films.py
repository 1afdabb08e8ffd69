"""Drawn films of hands under names of GRAZPEDWRI-DX, with annotations in the form of the paper's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.research.reproduction.split import ROTATED, WristFiles
from support.cvat_files import image, mask, polygon, write_cvat
from support.drawn import write_png

SIZE = (64, 48)
#: Films to train in their order, which is not that of their names; two right hands.
TRAIN = ("0900_1_01_WRI-R1_F011", "0100_2_01_WRI-L1_M006", "0500_3_01_WRI-R1_M014", "0300_4_01_WRI-L1_F003")
#: Annotated in a file to train, but not in the list.
NOT_LISTED = "0200_5_01_WRI-L1_M007"
VAL, TEST = "1000_6_01_WRI-R1_M009", ("2000_7_01_WRI-L1_F010", "2001_8_01_WRI-R1_F012")
LATERAL = "2002_9_02_WRI-L2_F012"
UNLABELLED = ("3000_10_01_WRI-R1_M004", "3001_11_01_WRI-L1_M005")


def hand(name: str) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """A left hand, uint16 (y, x), and masks bool (y, x) by bone: radius right of the ulna, both under the capitate."""
    rng = np.random.default_rng(sum(map(ord, name)))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    top, left = rng.integers(34, 38), rng.integers(4, 8)
    bones = {
        "Ulna": (y >= top + 4) & (y < 62) & (x >= left) & (x < left + 8),
        "Radius": (y >= top) & (y < 62) & (x >= left + 18) & (x < left + 32),
        "Os capitatum": (y - top + 6) ** 2 + (x - left - 22) ** 2 <= 64,
        "Phalanx media II": (y < 8) & (x >= 30) & (x < 36),
    }
    pixels = 6000 + sum(9000 * bone for bone in bones.values()) + rng.normal(0, 500, SIZE)
    return np.clip(pixels, 0, 65535).astype(np.uint16), bones


def film(name: str) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """A hand as in the archive: right ones are mirrored left ones."""
    pixels, bones = hand(name)
    step = -1 if "WRI-R" in name else 1
    return pixels[:, ::step], {bone: drawn[:, ::step] for bone, drawn in bones.items()}


def annotated(name: str) -> str:
    """Element of a film: the radius as a polygon, the others as masks."""
    shapes = []
    for bone, drawn in film(name)[1].items():
        if bone == "Radius":
            rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
            (top, bottom), (left, right) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
            corners = ((left, top), (right, top), (right, bottom), (left, bottom))
            shapes.append(polygon(";".join(f"{x}.00,{y}.00" for x, y in corners), label="Knochen", Anatomie=bone))
        else:
            shapes.append(mask(drawn, label="Knochen", Anatomie=bone))
    return image(f"{name}.png", SIZE, shapes)


def wrist_files(folder: Path, **changes: Any) -> WristFiles:
    """Films, four annotation files and the list; ``changes``: fields of ``WristFiles``."""
    (folder / "films").mkdir(parents=True)
    for name in (*TRAIN, NOT_LISTED, VAL, *TEST, ROTATED, LATERAL, *UNLABELLED):
        write_png(folder / "films" / f"{name}.png", film(name)[0])
    parts = {"train1": TRAIN[:2], "train2": (NOT_LISTED, *TRAIN[2:]), "val": (VAL,), "test": (*TEST, LATERAL, ROTATED)}
    files = [
        write_cvat(folder / f"annotations_{part}.xml", *(annotated(name) for name in names))
        for part, names in parts.items()
    ]
    content = {"images": folder / "films", "annotations": files, "order": write_order(folder / "order.csv", TRAIN)}
    return WristFiles(**(content | changes))


def write_order(path: Path, films: Any, columns: Mapping[str, Any] | None = None) -> Path:
    """List of films as pandas writes it; ``columns``: further columns, a value for each film."""
    columns = columns or {}
    lines = [",".join(["", "file_stem", *columns])]
    lines += [",".join([str(i), f, *(str(c[i]) for c in columns.values())]) for i, f in enumerate(films)]
    path.write_text("\n".join(lines) + "\n")
    return path
