"""Weights of the click decoder: their training, and the Dice after some clicks, with and without them.

    python benchmarks/clicks.py train DATA FILE [--steps 600]
    python benchmarks/clicks.py measure DATA [--images 20]

DATA has the folders ``ultrasound`` and ``hippocampus`` (``images``, ``labels``, ``split.csv``). The training reads the
train split of ultrasound (CC BY 4.0) and draws ``films/shapes.py``. Measured are images that did not train: the test
split of ultrasound and of hippocampus (the middle slice), wrist bones of the demo and panoramic teeth.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from films.panoramic import panoramic
from films.raster import Mask
from films.shapes import grey_image, shapes
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from samstudent.demo.phantom import make_radiograph
from samstudent.sam import lite_medsam
from samstudent.sam.adapted import save_weights
from samstudent.sam.click_adapt import dice_by_clicks, some_masks
from samstudent.sam.click_decoder import ClickDecoder, click_decoder
from samstudent.sam.click_training import ClickExample, ClickRun, ClickTrainingOptions
from samstudent.sam.clicks import mask_of_clicks
from samstudent.sam.embedding import Embedding
from samstudent.sam.prompts import Prompt

Picture = tuple[NDArray[np.uint8], list[Mask]]

#: Number of drawn images that train.
DRAWN = 300
#: Longest side of an image, as on the server.
SIDE = 512
#: Smallest number of pixels of a mask.
SMALLEST = 30
#: Largest number of clicks on a structure, and Dice to reach.
CLICKS, GOOD = 10, 0.9


def ultrasound(folder: Path, split: str, *, parts: bool) -> Iterator[Picture]:
    """Images of a split; ``parts``: also each connected part of a structure as a mask."""
    for image, label in _files(folder, split):
        values = np.asarray(Image.open(label))
        values = values[..., 0] if values.ndim == 3 else values
        masks = [mask for value in (1, 2) if (mask := values == value).any()]
        if parts:
            masks = [part for mask in masks for part in (mask, *_parts(mask))]
        yield np.asarray(Image.open(image).convert("RGB")), masks


def hippocampus(folder: Path, split: str) -> Iterator[Picture]:
    """Slices across the third axis with most of the structures."""
    for image, label in _files(folder, split):
        values = np.asarray(nibabel.load(label).dataobj)
        z = int(np.argmax((values > 0).sum((0, 1))))
        # The window is that of the volume.
        pixels = grey_image(np.asarray(nibabel.load(image).dataobj).astype(float).transpose(2, 1, 0))
        yield pixels[z], [value == values[:, :, z].T for value in (1, 2)]


def drawn(draw: Callable[[np.random.Generator], Picture], seed: int) -> Iterator[Picture]:
    """Images of a kind that is drawn, endlessly."""
    number = 0
    while True:
        yield draw(np.random.default_rng((seed, number)))
        number += 1


def wrist(rng: np.random.Generator) -> Picture:
    """A radiograph of the demo."""
    film = make_radiograph(rng)
    return grey_image(film.image.astype(float)), list(film.masks)


def teeth(rng: np.random.Generator) -> Picture:
    """A panoramic radiograph."""
    pixels, masks = panoramic(rng)
    return grey_image(pixels), list(masks)


def examples(pictures: Iterator[Picture], sam: Any, count: int | None = None) -> list[ClickExample]:
    """Embedded images, of at most ``SIDE`` pixels; those without a mask are left out."""
    found = []
    for number, (image, masks) in enumerate(pictures):
        if number == count:
            break
        image, masks = _reduced(image, masks)
        masks = [mask for mask in masks if mask.sum() >= SMALLEST]
        if masks:
            found.append(ClickExample(sam.embed(np.ascontiguousarray(image)), np.stack(masks)))
    return found


def train(data: Path, file: Path, steps: int) -> None:
    """Train the click decoder and write its weights."""
    sam = lite_medsam.load()
    training = examples(ultrasound(data / "ultrasound", "train", parts=True), sam)
    training += examples(drawn(shapes, 11), sam, DRAWN)
    # As on disk, where SAM's embeddings are float16.
    training = [replace(e, embedding=_rounded(e.embedding)) for e in training]
    print(f"{len(training)} images, {sum(len(e.masks) for e in training)} masks", flush=True)
    run = ClickRun(sam, training, ClickTrainingOptions(steps, learning_rate=3e-4), [0])
    losses: list[float] = []

    def show(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 20 == 0:
            print(f"{step} steps, loss {np.mean(losses[-20:]):.3f}", flush=True)

    run.train(steps, show)
    record = {"data": "ultrasound (tmkand/usgra-seg), train split, CC BY 4.0; drawn shapes", "steps": steps}
    save_weights(file, {name: weight.half() for name, weight in run.weights().items()}, sam, record)


def measure(data: Path, count: int) -> None:
    """Print the table."""
    sam = lite_medsam.load()
    sets = {
        "ultrasound": ultrasound(data / "ultrasound", "test", parts=False),
        "hippocampus": hippocampus(data / "hippocampus", "test"),
        "drawn bones": drawn(wrist, 9),
        "drawn teeth": drawn(teeth, 6),
    }
    clicks = click_decoder(sam)
    ways: dict[str, Callable[[Embedding, Prompt], Mask]] = {
        "points as they are": lambda embedding, prompt: sam.decode(embedding, prompt).logits > 0,
        "boxes around clicks": lambda embedding, prompt: mask_of_clicks(sam, embedding, prompt).mask,
    }
    if clicks is not None:
        ways["click decoder"] = lambda embedding, prompt: clicks.decode(embedding, prompt).logits > 0
        ways["from the second click"] = lambda embedding, prompt: (
            mask_of_clicks(sam, embedding, prompt, ClickDecoder(clicks)).mask
        )
    table = Table("set", "structures", "way", *(f"{k} clicks" for k in (1, 2, 3, 5)), f"clicks to {GOOD}", "reached")
    for name, pictures in sets.items():
        chosen = examples(pictures, sam, count)
        for way, mask_of in ways.items():
            curves = np.array(
                [
                    dice_by_clicks(partial(mask_of, e.embedding), e, index, CLICKS)
                    for e in chosen
                    for index in some_masks(e)
                ]
            )
            good = curves >= GOOD
            needed = np.where(good.any(1), good.argmax(1) + 1, CLICKS + 1)
            figures = [f"{100 * curves[:, k - 1].mean():.1f}" for k in (1, 2, 3, 5)]
            table.add_row(name, str(len(curves)), way, *figures, f"{needed.mean():.1f}", f"{good.any(1).mean():.0%}")
    Console(width=140).print(table)


def _files(folder: Path, split: str) -> Iterator[tuple[Path, Path]]:
    """Image and label files of a split."""
    with (folder / "split.csv").open() as file:
        ids = [row["id"] for row in csv.DictReader(file) if row["split"] == split]
    for id in ids:
        yield next((folder / "images").glob(f"{id}.*")), next((folder / "labels").glob(f"{id}.*"))


def _parts(mask: Mask) -> list[Mask]:
    """Connected parts of a mask with several."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    return [labels == part for part in range(1, count + 1)] if count > 1 else []


def _reduced(image: NDArray[np.uint8], masks: list[Mask]) -> Picture:
    scale = SIDE / max(image.shape[:2])
    if scale >= 1:
        return image, masks
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    smaller = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    return smaller, [np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in masks]


def _rounded(embedding: Embedding) -> Embedding:
    return replace(embedding, features=embedding.features.astype(np.float16).astype(np.float32))


def main() -> None:
    """Train or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train")
    training.add_argument("data", type=Path)
    training.add_argument("file", type=Path)
    training.add_argument("--steps", type=int, default=600)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("data", type=Path)
    measuring.add_argument("--images", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.verb == "train":
        train(arguments.data, arguments.file, arguments.steps)
    else:
        measure(arguments.data, arguments.images)


if __name__ == "__main__":
    sys.exit(main())
