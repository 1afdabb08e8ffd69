"""What surrounds the teeth on a panoramic film: jaws, sinuses, spine, soft tissue, air and ghosts.

Millimetres as in ``dentition``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from films.dentition import Mouth
from films.raster import Film, Points, blurred, closed, clouds, curve, disk

Project = Callable[[Points], Points]


def draw_jaws(rng: np.random.Generator, film: Film, view: Project, mouth: Mouth) -> None:
    """Add everything but the teeth."""
    shape = (film.pixels.shape[0], film.pixels.shape[1])
    scale = shape[1] / 250
    _soft_tissue(rng, film, view, scale)
    bone = Film.empty(shape)
    _mandible(rng, bone, view, mouth, scale)
    _maxilla(rng, bone, view, mouth, scale)
    # Trabeculae: texture where bone is.
    texture = 0.5 * clouds(rng, shape, 1.3) + 0.5 * clouds(rng, shape, 2.6)
    bone.pixels[:] *= 1 + rng.uniform(0.08, 0.2) * texture + 0.1 * clouds(rng, shape, 25)
    film.pixels[:] += bone.pixels
    up = int(rng.uniform(20, 60))
    ghost = blurred(bone.pixels[up:, ::-1], (10, 22))
    film.pixels[: shape[0] - up] += rng.uniform(0.1, 0.4) * ghost
    _shadows(rng, film, view, scale)


def _soft_tissue(rng: np.random.Generator, film: Film, view: Project, scale: float) -> None:
    wide, base = rng.uniform(105, 118), rng.uniform(0.22, 0.34)
    face = closed(
        [(-wide, -70), (wide, -70), (wide + 4, 10), (wide - 30, 48), (0, 62), (-wide + 30, 48), (-wide - 4, 10)]
    )
    film.add(view(face), base, 7)
    # Cervical spine at the film's sides.
    for side in (-1, 1):
        for level in range(6):
            centre = (side * (wide + 10 + rng.normal(0, 1)), -50 + 15 * level)
            block = np.array([(-9, -5), (-4, -6), (7, -6), (8, 6), (-4, 6), (-9, 5)]) * np.array([side, 1])
            film.add(view(closed(block + np.array(centre), 60, 2)), 0.14, 3.5)
        film.line(view(curve([(side * (wide + 10), -70), (side * (wide + 8), 50)])), 22 * scale, 0.12, 6)
    if rng.random() < 0.7:  # tongue
        film.add(view(disk((0, -3), (58, 16))), rng.uniform(0.03, 0.1), 6)
    # Hyoid bone.
    for side in (-1, 1):
        film.line(view(curve([(side * 22, 52), (side * 42, 48), (side * 60, 42)])), 3 * scale, 0.13, 2.5)


def _mandible(rng: np.random.Generator, bone: Film, view: Project, mouth: Mouth, scale: float) -> None:
    chin, body, angle = rng.normal(43, 2.5), rng.normal(37, 2), rng.normal(76, 3)
    crest = 10.5 + mouth.loss
    dense = rng.uniform(0.3, 0.42)
    half = [(0, chin), (18, chin + 0.5), (45, body), (angle - 12, body - 6), (angle, body - 18), (angle + 8, body - 45)]
    ramus = [
        (angle + 11, -36),
        (angle + 13, -48),
        (angle + 5, -52),
        (angle, -38),
        (angle - 8, -28),
        (angle - 15, -42),
        (angle - 19, -30),
    ]
    inner = [(angle - 18, -8), (angle - 16, crest - 2), (50, crest), (30, crest), (12, crest)]
    side = half + ramus + inner
    outline = closed(side + [(-x, y) for x, y in side[::-1]][:-1], 400, 2.5)
    bone.add(view(outline), dense, 1.5)
    lower = curve([(-x, y) for x, y in half[::-1]][:-1] + half, 120)
    bone.line(view(lower - np.array([0, 1.2])), 3.4 * scale, rng.uniform(0.12, 0.25), 1.5)
    for sign in (-1, 1):
        # Canal of the nerve: dark between two bright lines.
        canal = curve([(sign * 36, 27), (sign * 48, 30), (sign * 60, 25), (sign * 72, 8), (sign * 78, -8)])
        bone.line(view(canal), 4 * scale, 0.07, 1.2)
        bone.line(view(canal), 2.6 * scale, -0.15, 1.2)
        bone.add(view(disk((sign * 35, 26), (2.2, 1.7))), -0.12, 1.5)
        # Oblique line.
        ridge = curve([(sign * (angle - 18), -8), (sign * (angle - 24), 10), (sign * 46, 19)])
        bone.line(view(ridge), 2 * scale, 0.09, 2.0)
    film_chin = disk((0, chin - 9), (13, 7))
    bone.add(view(film_chin), 0.08, 4)


def _maxilla(rng: np.random.Generator, bone: Film, view: Project, mouth: Mouth, scale: float) -> None:
    crest = -10.5 - mouth.loss
    dense = rng.uniform(0.26, 0.38)
    side = [(15, crest), (35, crest), (56, crest - 1), (66, crest - 8), (68, -30), (78, -48), (70, -66)]
    outline = closed(side + [(-x, y) for x, y in side[::-1]], 300, 3)
    bone.add(view(outline), dense, 2.5)
    # Palate: a bright bar over the roots.
    palate = curve([(-62, -33), (-30, -31), (0, -31), (30, -31), (62, -33)])
    bone.line(view(palate), 2.4 * scale, rng.uniform(0.1, 0.22), 1.6)
    bone.line(view(palate - np.array([0, rng.uniform(3, 8)])), 1.5 * scale, 0.08, 1.6)
    for sign in (-1, 1):
        floor = rng.uniform(-24, -19)
        sinus = closed(
            [
                (sign * 22, -40),
                (sign * 26, floor - 8),
                (sign * 40, floor),
                (sign * 55, floor),
                (sign * 64, -34),
                (sign * 58, -58),
                (sign * 30, -60),
            ],
            150,
            5,
        )
        bone.add(view(sinus), 0.09, 1.8)
        centre = sinus.mean(axis=0)
        bone.add(view((sinus - centre) * 0.96 + centre), -0.09 - dense * rng.uniform(0.35, 0.65), 1.6)
        nose = closed(
            [(sign * 2.5, -37), (sign * 15, -36), (sign * 17, -50), (sign * 8, -70), (sign * 2.5, -70)], 100, 4
        )
        bone.add(view(nose), -dense * rng.uniform(0.4, 0.7), 2)
        cheek = curve([(sign * 52, -36), (sign * 68, -44), (sign * 84, -54), (sign * 100, -58)])
        bone.line(view(cheek), 4.5 * scale, rng.uniform(0.08, 0.2), 3)


def _shadows(rng: np.random.Generator, film: Film, view: Project, scale: float) -> None:
    """Spine in the middle, air, bite block, letter."""
    height, width = film.pixels.shape
    middle = float(view(np.zeros((1, 2)))[0, 0])
    x = np.arange(width) - middle - rng.normal(0, 8)
    spine = np.exp(-((np.abs(x) / rng.uniform(35, 75)) ** 3))
    rows = 1 + 0.25 * np.cos(np.arange(height) / rng.uniform(14, 20))
    film.pixels[:] += rng.uniform(0.05, 0.35) * spine[None] * rows[:, None]
    # Air between tongue and palate, and behind the tongue.
    air = rng.uniform(0.0, 0.3)
    gap = curve([(-75, -22), (-50, -26), (0, -27), (50, -26), (75, -22)])
    film.line(view(gap), rng.uniform(3, 9) * scale, -air, 4)
    for sign in (-1, 1):
        throat = curve([(sign * 74, -40), (sign * 78, -10), (sign * 74, 15), (sign * 66, 40)])
        film.line(view(throat), rng.uniform(6, 12) * scale, -rng.uniform(0.05, 0.2), 5)
    if rng.random() < 0.6:  # lips apart: the front crowns are over air
        film.add(
            view(disk((0, rng.normal(0, 2)), (rng.uniform(18, 34), rng.uniform(5, 10)))), -rng.uniform(0.05, 0.25), 4
        )
    if rng.random() < 0.4:
        block = np.array([(-3, -3), (3, -3), (3, 45), (-3, 45)]) * np.array([rng.uniform(0.5, 1.5), 1])
        film.add(view(block), rng.uniform(0.05, 0.15), 1.5)
    if rng.random() < 0.5:
        corner = np.array(
            [
                (20, height - 40),
                (26, height - 40),
                (26, height - 20),
                (38, height - 20),
                (38, height - 15),
                (20, height - 15),
            ]
        )
        film.cover(corner.astype(float), 2.0)
    if rng.random() < 0.1:  # an ear ring and its ghost on the other side
        side = rng.choice([-1, 1])
        film.cover(view(disk((side * 100, -30), (4, 5))), 2.0)
        film.line(view(curve([(-side * 95, -52), (-side * 60, -50)])), 5 * scale, 0.25, 3)
    film.pixels[:] = np.maximum(film.pixels, 0)
