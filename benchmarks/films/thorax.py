"""Drawn frontal chest films: lungs, heart and clavicles, with what hides their borders.

Outlines are in millimetres from the middle of the chest: x to the viewer's right (the patient's left), y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from films.chest_parts import draw_bones, draw_devices, draw_soft_tissue, draw_vessels
from films.raster import Film, Mask, Pixels, Points, annotated, blurred, closed, clouds, coverage, mask_of, ribbon

SHAPE = (320, 320)
#: Standard deviation in mm by which labels are off, in the order of the masks: real ones disagree about as much.
_OFF = (1.3, 1.3, 1.8, 0.5, 0.5)


@dataclass(frozen=True)
class Chest:
    """Build and position of a person.

    Attributes:
        centre: where the chest's middle falls, pixels x, y.
        scale: pixels per millimetre (y); ``wide``: factor of x.
        turn: rotation of the film in radians.
        twist: rotation of the person about the spine, -1 to 1: the front shifts against the back.
        breath: 1: deep breath, low diaphragm.
    """

    centre: tuple[float, float]
    scale: float
    wide: float
    turn: float
    twist: float
    breath: float

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: tuple[int, int]) -> Chest:
        return cls(
            (shape[1] / 2 + rng.normal(0, 7), shape[0] * 0.5 + rng.normal(0, 9)),
            scale=shape[0] / 325 * rng.normal(1, 0.07),
            wide=rng.normal(1, 0.05),
            turn=rng.normal(0, 0.03),
            twist=float(np.clip(rng.normal(0, 0.4), -1, 1)),
            breath=rng.normal(0, 1),
        )

    def __call__(self, points: Points) -> Points:
        x, y = points[:, 0] * self.wide, points[:, 1]
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        turned = np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)
        return np.asarray(turned * self.scale + np.asarray(self.centre))


def thorax(rng: np.random.Generator, shape: tuple[int, int] = SHAPE) -> tuple[Pixels, Mask]:
    """Film in 0 to 1 and 5 masks in the order of the task ``chest``; masks overlap."""
    chest = Chest.draw(rng, shape)
    film = Film.empty(shape)
    lungs = {side: _lung(rng, chest, side) for side in (1, -1)}
    heart = _heart(rng, chest)
    clavicles = {side: _clavicle(rng, chest, side) for side in (1, -1)}
    draw_soft_tissue(rng, film, chest)
    # Air, then what lies in it.
    for side, outline in lungs.items():
        film.add(chest(outline), -rng.uniform(0.42, 0.58) * (1 + 0.05 * side * chest.twist), 1.6)
    film.add(chest(heart), rng.uniform(0.25, 0.4), 2.2)
    draw_vessels(rng, film, chest)
    draw_bones(rng, film, chest)
    for outline in clavicles.values():
        value = rng.uniform(0.11, 0.22)
        film.add(chest(outline), value, 1.1)
        film.line(chest(outline[: len(outline) // 2]), 1.2, 0.5 * value, 0.8)
        film.line(chest(outline[len(outline) // 2 :]), 1.2, 0.5 * value, 0.8)
    _disease(rng, film, chest, lungs)
    draw_devices(rng, film, chest)
    pixels = _develop(rng, film.pixels)
    parts = [lungs[1], lungs[-1], heart, clavicles[1], clavicles[-1]]
    labels = [annotated(rng, part, off) for part, off in zip(parts, _OFF, strict=True)]
    return pixels, np.stack([mask_of(chest(label), shape) for label in labels])


def _lung(rng: np.random.Generator, chest: Chest, side: int) -> Points:
    """Outline of a lung; ``side`` 1: the patient's left, which leaves room for the heart."""
    base = 100 + 8 * chest.breath + (6 if side == 1 else 0) + rng.normal(0, 6)
    out, top = 124 + rng.normal(0, 6), -128 + rng.normal(0, 5)
    shift = 6 * chest.twist
    left = [(20, -98), (24, -60), (30, -30), (40, 0), (55, 30), (66, 60), (69, base - 18)]
    right = [(20, -98), (23, -60), (28, -30), (31, 0), (34, 30), (36, 60), (36, base - 12)]
    inner = [(x + side * shift + rng.normal(0, 1.5), y) for x, y in (left if side == 1 else right)]
    dome = [(80 if side == 1 else 72, base - 22), (100, base - 16), (out - 6, base + 4), (out + 1, base + 18)]
    outer = [(out + 1, base - 10), (out, 40), (out - 5, 0), (out - 16, -45), (out - 36, -88), (out - 58, -115)]
    apex = [(48 + rng.normal(0, 2), top), (30, top + 10)]
    points = np.array(inner + dome + outer + apex) * np.array([side, 1])
    return closed(points, 200, 3)


def _heart(rng: np.random.Generator, chest: Chest) -> Points:
    """Outline of the heart; its upper and lower borders lie in the mediastinum and on the diaphragm."""
    size, low = rng.normal(1, 0.1), 92 + 6 * chest.breath
    tip = (78 * size, low - 20 + rng.normal(0, 4))
    right = [(-20, -8), (-36 * size, 22), (-44 * size, 52), (-38 * size, low - 12)]
    left = [tip, (72 * size, 46), (54 * size, 16), (38, -10), (18, -22)]
    shift = np.array([6 * chest.twist + rng.normal(0, 3), rng.normal(0, 3)])
    return closed(np.array([*right, (-8, low - 2), (40 * size, low + 2), *left]) + shift, 160, 5)


def _clavicle(rng: np.random.Generator, chest: Chest, side: int) -> Points:
    """Outline of a clavicle: S-shaped, thick at the breast bone."""
    lift, height = rng.normal(16, 9), -92 + rng.normal(0, 6)
    inner = 16 + side * 9 * chest.twist + rng.normal(0, 2)
    length = rng.normal(132, 6) * (1 - 0.05 * side * chest.twist)
    t = np.linspace(0, 1, 40)
    x = inner + length * t
    y = height - lift * t + rng.normal(5, 2) * np.sin(2 * np.pi * t) + rng.normal(-5, 3) * np.sin(np.pi * t)
    halves = rng.normal(5.4, 0.5) * (1.25 - 0.9 * t + 1.0 * t**2)
    return ribbon(np.stack([side * x, y], axis=1), halves)


def _disease(rng: np.random.Generator, film: Film, chest: Chest, lungs: dict[int, Points]) -> None:
    """Effusions and consolidations: the lung's label goes on below them."""
    shape = film.pixels.shape
    for side, outline in lungs.items():
        box, cover = coverage(chest(outline), shape, margin=6)
        rows = (np.arange(box[0].start, box[0].stop) - chest.centre[1]) / chest.scale
        columns = side * (np.arange(box[1].start, box[1].stop) - chest.centre[0]) / chest.scale
        if rng.random() < 0.18:
            level = rng.uniform(40, 100)
            meniscus = level - 0.25 * np.maximum(columns - 60, 0)
            fluid = 1 / (1 + np.exp(-(rows[:, None] - meniscus[None]) / rng.uniform(4, 9)))
            film.pixels[box] += rng.uniform(0.25, 0.5) * blurred(cover, (3, 3)) * fluid
        for _ in range(int(rng.poisson(0.25))):
            spot = np.exp(
                -(((rows[:, None] - rng.uniform(-90, 95)) / rng.uniform(10, 35)) ** 2)
                - ((columns[None] - rng.uniform(40, 115)) / rng.uniform(10, 30)) ** 2
            )
            patchy = 1 + 0.5 * clouds(rng, (spot.shape[0], spot.shape[1]), 5)
            film.pixels[box] += rng.uniform(0.15, 0.45) * spot * patchy * blurred(cover, (1, 1))
    if rng.random() < 0.15:  # a basal shadow over the angle or the heart's border
        spot = closed(np.array([(-40, -14), (40, -14), (46, 16), (-46, 16)]) + np.array([rng.choice([-80, 80]), 95]))
        film.add(chest(spot), rng.uniform(0.1, 0.3), 8)


def _develop(rng: np.random.Generator, pixels: Pixels) -> Pixels:
    """Blur, exposure and noise of a film."""
    shape = (pixels.shape[0], pixels.shape[1])
    film = np.asarray(ndimage.gaussian_filter(np.maximum(pixels, 0), rng.uniform(0.4, 0.9)))
    film *= 1 + 0.05 * clouds(rng, shape, 50) + 0.03 * clouds(rng, shape, 6)
    film = 1 - np.exp(-film * rng.uniform(1.1, 1.9))
    film = film ** rng.uniform(0.8, 1.6)
    if rng.random() < 0.4:
        film += rng.uniform(0.2, 0.8) * (film - blurred(film, (6, 6)))
    film = film * rng.uniform(0.85, 1.1) + rng.uniform(-0.03, 0.08)
    return np.asarray(film + rng.uniform(0.008, 0.03) * clouds(rng, shape, 0.6))
