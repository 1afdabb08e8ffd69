"""Drawn panoramic films: 32 teeth by FDI number in their jaws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage

from films.dentition import Mouth, Tooth, draw_mouth
from films.jaws import draw_jaws
from films.raster import Film, Mask, Pixels, Points, clouds, coverage, curve, ribbon
from films.tooth import Outlines, outlines

SHAPE = (384, 768)
NUMBERS = [quadrant * 10 + unit for quadrant in (1, 2, 3, 4) for unit in range(1, 9)]


@dataclass(frozen=True)
class View:
    """Projection of a mouth (millimetres, see ``dentition``) on the film (pixels x, y).

    Attributes:
        centre: where the middle of the occlusal plane falls.
        scale: pixels per millimetre.
        smile: millimetres by which teeth 60 mm from the middle are higher.
        turn: rotation of the film in radians.
        sides: relative difference of magnification of the two sides, of a head that was turned.
        front: relative difference of the width of front teeth, of a head too near or too far.
    """

    centre: tuple[float, float]
    scale: float
    smile: float
    turn: float
    sides: float
    front: float

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: tuple[int, int]) -> View:
        centre = (shape[1] / 2 + rng.normal(0, 16), shape[0] * 0.5 + rng.normal(0, 12))
        return cls(
            centre,
            scale=shape[1] / 235 * rng.normal(1, 0.06),
            smile=rng.normal(10, 5),
            turn=rng.normal(0, 0.035),
            sides=rng.normal(0, 0.06),
            front=rng.normal(0, 0.15),
        )

    def __call__(self, points: Points) -> Points:
        x, y = points[:, 0], points[:, 1]
        wide = x * (1 + self.sides * np.tanh(x / 40)) + self.front * 12 * np.tanh(x / 12)
        high = y - self.smile * (x / 60) ** 2 / (1 + (x / 120) ** 2)
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        turned = np.stack([wide * cos - high * sin, wide * sin + high * cos], axis=1)
        return np.asarray(turned * self.scale + np.asarray(self.centre))


def panoramic(rng: np.random.Generator, shape: tuple[int, int] = SHAPE) -> tuple[Pixels, Mask]:
    """Film in 0 to 1 and 32 masks in the order of ``NUMBERS``; a pixel belongs to one tooth at most."""
    view, mouth = View.draw(rng, shape), draw_mouth(rng)
    film = Film.empty(shape)
    draw_jaws(rng, film, view, mouth)
    contrast = rng.uniform(0.75, 1.1)
    depth, owner = np.zeros(shape), np.zeros(shape, int)
    metal: list[tuple[Points, float]] = []
    for tooth in mouth.teeth:
        form = outlines(rng, tooth.unit, tooth.upper, tooth.size, tooth.short)
        dense = contrast * rng.uniform(0.8, 1.2)
        _draw_tooth(film, partial(_placed, view, tooth), tooth, form, dense)
        metal += _draw_work(rng, film, view, tooth, form, dense)
        _own(depth, owner, tooth, [_placed(view, tooth, part) for part in _parts(tooth, form)])
    for tooth in mouth.pontics:
        form = outlines(rng, tooth.unit, tooth.upper, tooth.size)
        metal.append((_placed(view, tooth, form.crown * np.array([1.06, 0.95])), rng.uniform(1.5, 2.2)))
    for tooth in mouth.implants:
        metal += _implant(rng, view, tooth)
    if mouth.brackets:
        _brackets(rng, view, mouth, metal)
    for outline, value in metal:
        film.cover(outline, value)
    pixels = _develop(rng, film.pixels, view)
    return pixels, np.stack([owner == number for number in NUMBERS])


def _placed(view: View, tooth: Tooth, points: Points) -> Points:
    """Points of a tooth (u, v) on the film."""
    u, v = points[:, 0] * tooth.side, points[:, 1] * (-1 if tooth.upper else 1)
    lean = tooth.lean * tooth.side
    up = -1 if tooth.upper else 1
    x = u * np.cos(lean) + up * v * np.sin(lean)
    y = -up * u * np.sin(lean) + v * np.cos(lean)
    return view(np.stack([x + tooth.x, y + tooth.y], axis=1))


def _parts(tooth: Tooth, form: Outlines) -> list[Points]:
    """Outlines that together are the tooth."""
    return list(form.roots) if tooth.state == "root" else [form.crown, *form.roots]


def _own(depth: Pixels, owner: Pixels, tooth: Tooth, parts: list[Points]) -> None:
    """Give a tooth the pixels that lie deeper in it than in the teeth drawn so far."""
    every = np.concatenate(parts)
    box, _ = coverage(every, depth.shape)
    inside = np.zeros(depth.shape, bool)[box]
    for part in parts:
        where, cover = coverage(part, depth.shape)
        if cover.size:
            rows, columns = (slice(w.start - b.start, w.stop - b.start) for w, b in zip(where, box, strict=True))
            inside[rows, columns] |= cover >= 0.5
    if not inside.any():
        return
    far = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    mine = far > depth[box]
    owner[box][mine], depth[box][mine] = tooth.number, far[mine]


def _draw_tooth(film: Film, place: Callable[[Points], Points], tooth: Tooth, form: Outlines, dense: float) -> None:
    """Add the hard tissue of a tooth to the film; ``place``: from the tooth's millimetres to the film."""
    parts = [place(part) for part in _parts(tooth, form)]
    # Roots: dark ligament, bright bone around it, then dentine. Several roots lie partly behind each other.
    inner = dense / (1 + 0.5 * (len(parts) > 3))
    for part in parts if tooth.state == "root" else parts[1:]:
        film.add(_grown(part, 1.9), 0.05 * dense, 0.8)
        film.add(_grown(part, 0.9), -0.12 * dense, 0.7)
        film.add(part, 0.2 * inner, 0.9)
        film.add(_grown(part, -1.6), 0.1 * inner, 1.2)
    if tooth.state != "root":
        film.add(parts[0], 0.34 * dense, 0.9)
        # Enamel: the crown's outer part above the neck.
        crown = form.crown[form.crown[:, 1] < -0.1 * form.length]
        film.add(place(crown), 0.34 * dense, 0.9)
        film.add(place(crown * np.array([0.7, 0.78])), -0.2 * dense, 1.0)
        film.add(place(form.chamber), -0.2 * dense, 1.0)


def _draw_work(
    rng: np.random.Generator, film: Film, view: View, tooth: Tooth, form: Outlines, dense: float
) -> list[tuple[Points, float]]:
    """Add canals and caries to the film.

    Returns:
        Outlines of metal, and how bright each is.
    """
    metal = []
    wide = (0.55 if tooth.young else 0.35) * rng.uniform(0.7, 1.3) * view.scale
    for canal in form.canals:
        line = _placed(view, tooth, canal)
        film.line(line, wide * 1.6, -0.1 * dense, 0.8)
        if tooth.treated:
            metal.append((_band(line[: int(len(line) * rng.uniform(0.75, 1))], wide * 1.3), rng.uniform(1.1, 1.5)))
    if tooth.state == "crowned":
        cap = form.crown[form.crown[:, 1] < 0.2]
        metal.append((_placed(view, tooth, cap * 1.04), rng.uniform(1.4, 2.3)))
    elif tooth.state == "filled":
        metal += [(_placed(view, tooth, spot), value) for spot, value in _fillings(rng, form)]
    elif tooth.state == "healthy" and not tooth.young and rng.random() < 0.1:
        u = rng.choice([-1, 1]) * form.width * 0.42
        film.add(_placed(view, tooth, _blob(rng, (u, -0.3 * form.length), form.width * 0.2)), -0.22 * dense, 1.0)
    return metal


def _fillings(rng: np.random.Generator, form: Outlines) -> list[tuple[Points, float]]:
    spots = []
    for _ in range(int(rng.integers(1, 3))):
        place = (rng.uniform(-0.35, 0.35) * form.width, -form.length * rng.uniform(0.45, 0.9))
        spots.append((_blob(rng, place, form.width * rng.uniform(0.14, 0.3)), rng.uniform(1.1, 2.2)))
    return spots


def _blob(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    wave = ndimage.gaussian_filter1d(rng.normal(1, 0.6, 24), 2, mode="wrap")
    return np.asarray(centre) + radius * wave[:, None] * np.stack([np.cos(angle), 0.8 * np.sin(angle)], axis=1)


def _grown(points: Points, by: float) -> Points:
    """Outline moved outwards by some pixels."""
    nxt, last = np.roll(points, -1, axis=0), np.roll(points, 1, axis=0)
    along = nxt - last
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    area = np.sum(points[:, 0] * nxt[:, 1] - nxt[:, 0] * points[:, 1])
    return np.asarray(points + np.sign(area) * by * normal)


def _band(line: Points, width: float) -> Points:
    return ribbon(line, np.full(len(line), width / 2))


def _implant(rng: np.random.Generator, view: View, tooth: Tooth) -> list[tuple[Points, float]]:
    """A screw in the bone with a crown; not a tooth."""
    length, half = rng.uniform(9, 13), rng.uniform(1.7, 2.4)
    v = np.linspace(-1, length, 40)
    halves = half * (1 - 0.25 * v / length) * (1 + 0.08 * np.sin(v * 7))
    screw = np.concatenate([np.stack([halves, v], axis=1), np.stack([-halves, v], axis=1)[::-1]])
    parts = [(_placed(view, tooth, screw), rng.uniform(1.7, 2.3))]
    if rng.random() < 0.8:
        form = outlines(rng, tooth.unit, tooth.upper, tooth.size)
        parts.append((_placed(view, tooth, form.crown[form.crown[:, 1] < 0]), rng.uniform(1.3, 2.0)))
    return parts


def _brackets(rng: np.random.Generator, view: View, mouth: Mouth, metal: list[tuple[Points, float]]) -> None:
    for upper in (True, False):
        spots = sorted((t.x, t.y * 0.5) for t in mouth.teeth if t.upper == upper and not t.impacted and t.unit < 8)
        if len(spots) < 3:
            continue
        wire = curve(spots, 80)
        metal.append((_band(view(wire), 1.2), 1.6))
        for x, y in spots:
            square = np.array([(-1.6, -1.4), (1.6, -1.4), (1.6, 1.4), (-1.6, 1.4)]) * rng.normal(1, 0.1)
            metal.append((view(square + np.array([x, y])), rng.uniform(1.5, 2.1)))


def _develop(rng: np.random.Generator, pixels: Pixels, view: View) -> Pixels:
    """Blur, exposure and noise of a film."""
    shape = (pixels.shape[0], pixels.shape[1])
    sharp = ndimage.gaussian_filter(pixels, rng.uniform(0.5, 0.9))
    soft = ndimage.gaussian_filter(pixels, (1.2, rng.uniform(1.5, 4.5)))
    front = np.exp(-(((np.arange(shape[1]) - view.centre[0]) / (view.scale * rng.uniform(8, 22))) ** 2))
    mixed = sharp + (soft - sharp) * front[None] * rng.uniform(0.2, 1)
    mixed = mixed * (1 + 0.06 * clouds(rng, shape, 60))
    film = 1 - np.exp(-np.maximum(mixed, 0) * rng.uniform(0.9, 1.5))
    film = film ** rng.uniform(0.8, 1.3)
    if rng.random() < 0.5:  # many systems sharpen edges
        film += rng.uniform(0.3, 1.0) * (film - ndimage.gaussian_filter(film, rng.uniform(1.5, 3)))
    grain = clouds(rng, shape, 0.6) * rng.uniform(0.008, 0.035)
    return np.asarray(film * rng.uniform(0.85, 1.05) + rng.uniform(0, 0.06) + grain)
