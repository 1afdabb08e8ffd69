"""Outlines of one tooth in millimetres: u along the arch (distal is positive), v along its axis (the root is positive,
0 at the neck)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from films.raster import Points, ribbon

#: Mesiodistal width, length of the crown, length of the root, by jaw and unit of the FDI number; rounded from
#: tables of dental anatomy.
SIZES = {
    "upper": [
        *((8.5, 10.5, 13), (6.6, 9, 13), (7.6, 10, 17), (7, 8.5, 14)),
        *((6.8, 8.5, 14), (10.2, 7.5, 13), (9.6, 7, 12.5), (8.6, 6.5, 11)),
    ],
    "lower": [
        *((5.4, 9, 12.5), (5.9, 9.5, 14), (6.9, 11, 16), (7, 8.5, 14)),
        *((7.2, 8, 14.5), (11.2, 7.5, 14), (10.6, 7, 13), (10, 7, 11)),
    ],
}
#: Half width of the crown at its edge and at the neck, and number of cusps, by unit.
_CROWNS = [
    *((0.86, 0.7, 0), (0.8, 0.7, 0), (0.45, 0.74, 1), (0.7, 0.74, 2)),
    *((0.72, 0.74, 2), (0.86, 0.84, 3), (0.86, 0.84, 3), (0.8, 0.84, 3)),
]


@dataclass(frozen=True)
class Outlines:
    """Outlines of a tooth in millimetres.

    Attributes:
        width: largest width of the crown.
        length: height of the crown above the neck.
        crown: crown with the upper part of the root.
        roots: the roots, from inside the crown to their ends.
        canals: middle lines of the root canals, from the pulp chamber to near the ends.
        chamber: pulp chamber.
    """

    width: float
    length: float
    crown: Points
    roots: list[Points]
    canals: list[Points]
    chamber: Points


def outlines(rng: np.random.Generator, unit: int, upper: bool, size: float, short: float = 1.0) -> Outlines:
    """Draw the outlines of a tooth; ``size``: factor of all lengths, ``short``: factor of the root's."""
    width, crown, root = SIZES["upper" if upper else "lower"][unit - 1]
    width, crown = width * size * rng.normal(1, 0.05), crown * size * rng.normal(1, 0.06)
    root *= size * short * rng.normal(1, 0.1)
    lines = _root_lines(rng, unit, upper, width, root)
    single = len(lines) == 1
    roots = [ribbon(line, halves) for line, halves in lines]
    canals = [line[: int(len(line) * 0.92)] for line, _ in lines]
    trunk = 1.0 if single else min(0.3 * root, 4.0)
    half = width * 0.16 * rng.uniform(0.7, 1.2)
    chamber = np.array(
        [(-half, -0.3 * crown), (half, -0.3 * crown), (half * 0.9, 0.15 * root), (-half * 0.9, 0.15 * root)]
    )
    return Outlines(width, crown, _crown(rng, unit, width, crown, trunk), roots, canals, chamber)


def _crown(rng: np.random.Generator, unit: int, width: float, crown: float, trunk: float) -> Points:
    """Crown from its edge to ``trunk`` millimetres below the neck."""
    edge, neck, cusps = _CROWNS[unit - 1]
    half = PchipInterpolator([-1, -0.8, -0.5, 0, 1], [edge, 0.93, 1, neck, neck * 0.93])
    v = np.linspace(-1, 1, 25)
    side = half(v) * width / 2
    depth = np.where(v < 0, v * crown, v * trunk)
    across = np.linspace(-1, 1, 21)
    bumps = (1 - np.cos(np.pi * cusps * (across + 1))) / 2 if cusps else 0.15 * across * rng.normal(0, 1)
    worn = rng.uniform(0.2, 1.0)
    top = np.stack([across * edge * width / 2, -crown - worn * bumps * (2.0 if cusps == 1 else 1.1)], axis=1)
    right, left = np.stack([side, depth], axis=1), np.stack([-side, depth], axis=1)
    return np.concatenate([top, right[1:], left[::-1][:-1]])


def _root_lines(
    rng: np.random.Generator, unit: int, upper: bool, width: float, root: float
) -> list[tuple[Points, Points]]:
    """Middle line and half widths of each root."""
    splay, bend = rng.uniform(0.8, 1.3), rng.normal(0.06, 0.06)
    if unit >= 6 and not (unit == 8 and rng.random() < 0.4):
        places = [(-0.27, 0.26, 1.0), (0.25, 0.24, 0.95)]
        if upper:
            places.append((rng.normal(0.02, 0.04), 0.27, 1.08))
    elif unit == 4 and upper and rng.random() < 0.5:
        places = [(-0.12, 0.27, 1.0), (0.12, 0.27, 0.95)]
    else:
        places = [(0.0, 0.38 if unit < 6 else 0.42, 1.0)]
    lines = []
    for place, half, length in places:
        length = length * root * rng.normal(1, 0.05)
        t = np.linspace(0, 1, 22)
        out = place * width * (1 + (splay - 1) * t) + np.sign(place) * 0.06 * width * np.sin(np.pi * t)
        u = out + bend * length * t**2 * rng.normal(1, 0.4)
        taper = PchipInterpolator([0, 0.3, 0.7, 0.92, 1], [1, 0.9, 0.62, 0.33, 0.08])
        lines.append(
            (np.stack([u, t * length], axis=1), half * width * taper(t) * (0.92 if len(places) == 1 else 0.95))
        )
    return lines
