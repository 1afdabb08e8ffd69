"""Synthetic labelled folders for ``samstudent experiment``, of anatomies without available images.

    python benchmarks/drawn.py wrists|teeth|chest|hard-teeth|hard-chest FOLDER [CASES]

``wrists``: radiographs of the demo, six overlapping bones. ``teeth``, ``chest``: ellipses with little around them; two
fifths of the cases are the test split, the others the train split. ``hard-teeth``: panoramic radiographs, 32 teeth in
their jaws, some missing, with fillings, bridges and implants. ``hard-chest``: 5 overlapping structures with ribs,
spine, vessels, effusions and tubes. Of the hard ones (300 by default) two thirds are train, 2 of 15 val and a fifth
test. A kind and a number always give the same image. Differences from real ones: ``docs/explanation/drawn-data.md``.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from films.cartoons import chest, teeth
from films.panoramic import panoramic
from films.raster import Mask, Pixels
from films.thorax import thorax
from PIL import Image

from samstudent.task import load_task


@dataclass(frozen=True)
class Kind:
    """A kind of film.

    Attributes:
        draw: film in 0 to 1 and masks (S, y, x) in the order of the task's structures.
        task: shipped task whose structures it has.
        seed: first part of a film's seed; the second is its number.
        cases, val, test: number of films by default, and shares of the splits.
    """

    draw: Callable[[np.random.Generator], tuple[Pixels, Mask]]
    task: str
    seed: int
    cases: int = 60
    val: float = 0.0
    test: float = 0.4

    def film(self, number: int) -> tuple[Pixels, Mask]:
        """Film and masks of a number."""
        return self.draw(np.random.default_rng((self.seed, number)))


KINDS = {
    "teeth": Kind(teeth, "teeth", 5),
    "chest": Kind(chest, "chest", 5),
    "hard-teeth": Kind(panoramic, "teeth", 6, 300, 2 / 15, 1 / 5),
    "hard-chest": Kind(thorax, "chest", 7, 300, 2 / 15, 1 / 5),
}


def write(folder: Path, name: str, cases: int) -> None:
    """Images, labels, and the structures' names."""
    kind = KINDS[name]
    task = load_task(kind.task)
    labels = folder / ("labels_overlap" if task.overlap else "labels")
    for made in (folder / "images", labels):
        made.mkdir(parents=True, exist_ok=True)
    values = 1 << np.arange(len(task.names)) if task.overlap else np.arange(1, len(task.names) + 1)
    for number in range(cases):
        film, masks = kind.film(number)
        label = (masks * values[:, None, None]).sum(axis=0).astype(np.uint8)
        case = f"{name}_{number:03d}.png"
        Image.fromarray((film.clip(0, 1) * 255).astype(np.uint8)).save(folder / "images" / case)
        Image.fromarray(label).save(labels / case)
    names = {str(i): structure for i, structure in enumerate(task.names, 1)}
    (folder / "labels.json").write_text(json.dumps(names), encoding="utf-8")


def write_split(folder: Path, val: float, test: float) -> None:
    """``split.csv`` with these shares of the cases, and the order in which train cases are labelled."""
    ids = sorted(path.stem for path in (folder / "images").iterdir())
    shuffled = np.random.default_rng((7, len(ids))).permutation(ids).tolist()
    held, seen = round(test * len(ids)), round((test + val) * len(ids))
    with (folder / "split.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "split", "train_order"])
        rows.writerows([case, "test", ""] for case in sorted(shuffled[:held]))
        rows.writerows([case, "val", ""] for case in sorted(shuffled[held:seen]))
        rows.writerows([case, "train", place] for place, case in enumerate(shuffled[seen:], 1))


def main(name: str, folder: Path, cases: int | None = None) -> None:
    if name == "wrists":
        from samstudent.demo.phantom import make_study

        make_study(folder, cases or 60, 7)
        write_split(folder, 0.0, 0.4)
    else:
        write(folder, name, cases or KINDS[name].cases)
        write_split(folder, KINDS[name].val, KINDS[name].test)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in ("wrists", *KINDS):
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
