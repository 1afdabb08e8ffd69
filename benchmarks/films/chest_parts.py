"""What surrounds lungs, heart and clavicles on a chest film: soft tissue, vessels, bones and devices.

Millimetres as in ``thorax``.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from films.raster import Film, Points, closed, curve, disk, ribbon


class Project(Protocol):
    """Projection on the film (``thorax.Chest``)."""

    @property
    def scale(self) -> float: ...

    @property
    def twist(self) -> float: ...

    @property
    def breath(self) -> float: ...

    def __call__(self, points: Points) -> Points: ...


def draw_soft_tissue(rng: np.random.Generator, film: Film, view: Project) -> None:
    """Body, mediastinum, liver, stomach, breasts and arms."""
    fat = rng.uniform(0, 22)
    body = [
        (34, -260),
        (36, -165),
        (80, -142),
        (150, -128),
        (168, -80),
        (150 + fat, -20),
        (142 + fat, 60),
        (146 + fat, 280),
    ]
    film.add(view(closed(body + [(-x, y) for x, y in body[::-1]], 200, 3)), rng.uniform(0.6, 0.78), 3)
    for side in (-1, 1):
        arm = curve([(side * 162, -110), (side * (180 + fat), 0), (side * (190 + fat), 200)])
        film.line(view(arm), 44, rng.uniform(0.2, 0.4), 4)
    shift = 5 * view.twist
    middle = [
        (-26, -260),
        (-24, -80),
        (-22, -40),
        (-26, 10),
        (-24, 290),
        (30, 290),
        (34, 10),
        (32, -40),
        (30, -62),
        (24, -80),
        (24, -260),
    ]
    film.add(view(closed(np.array(middle) + np.array([shift, 0.0]), 200, 4)), rng.uniform(0.16, 0.3), 3)
    film.add(view(disk((27 + shift, -58 + rng.normal(0, 3)), (rng.uniform(11, 17), 15))), rng.uniform(0.1, 0.25), 2)
    trachea = curve([(shift, -190), (shift, -90), (shift - 3, -52)])
    film.line(view(trachea), 15 * view.scale, -rng.uniform(0.08, 0.2), 2)
    low = 95 + 8 * view.breath
    belly = [(-135, low + 10), (-70, low - 12), (0, low), (70, low - 8), (135, low + 14), (150, 290), (-150, 290)]
    film.add(view(closed(belly, 160, 4)), rng.uniform(0.15, 0.3), 4)
    if rng.random() < 0.6:
        film.add(view(disk((70 + rng.normal(0, 8), low + 22), (rng.uniform(14, 30), rng.uniform(7, 14)))), -0.3, 2.5)
    if rng.random() < 0.5:
        size, value = rng.uniform(36, 62), rng.uniform(0.04, 0.2)
        for side in (-1, 1):
            breast = disk((side * rng.normal(78, 4), rng.normal(52, 8)), (size, size * rng.uniform(0.7, 1)), side * 0.2)
            film.add(view(breast), value, 3)


def draw_vessels(rng: np.random.Generator, film: Film, view: Project) -> None:
    """Hila and the vessels that branch from them."""
    value = rng.uniform(0.04, 0.1)
    for side in (-1, 1):
        root = np.array([side * (36 if side == 1 else 40) + 6 * view.twist, -14 + rng.normal(0, 4)])
        film.add(view(disk((root[0], root[1]), (11, 19), side * -0.3)), value * 1.5, 4)
        for angle in rng.uniform(-1.5, 1.6, 14):
            length, at, heading, width = rng.uniform(30, 85), root + rng.normal(0, (4, 9)), angle, rng.uniform(2, 5)
            points = [at.copy()]
            for _ in range(6):
                heading += rng.normal(0, 0.18)
                at = at + length / 6 * np.array([side * np.cos(heading), np.sin(heading)])
                points.append(at.copy())
            line = view(curve(np.array(points), 16))
            film.add(ribbon(line, np.linspace(width, 0.6, 16) * view.scale / 2), value, 1.0)


def draw_bones(rng: np.random.Generator, film: Film, view: Project) -> None:
    """Spine, ribs from behind and in front, shoulder blades, upper arms."""
    back = -4 * view.twist
    value = rng.uniform(0.06, 0.16)
    for level in range(15):
        y = -170 + 24 * level
        block = np.array([(-15, -9), (15, -9), (14, 0), (16, 9), (-16, 9), (-14, 0)]) + np.array([back, float(y)])
        film.add(view(closed(block, 60, 1.5)), value, 1.4)
        film.add(view(disk((back, y + 2), (2.5, 5))), value * 0.5, 1.0)
    behind, front = rng.uniform(0.07, 0.15), rng.uniform(0.03, 0.09)
    drop = rng.normal(20, 4)
    for rib in range(11):
        top = -140 + 23 * rib + rng.normal(0, 1.5)
        reach = min(122, 62 + 17 * rib) + rng.normal(0, 2)
        for side in (-1, 1):
            line = curve(
                [
                    (side * 14 + back, top),
                    (side * reach * 0.5, top - 4),
                    (side * reach * 0.85, top + drop * 0.6),
                    (side * reach, top + drop * 1.7),
                ]
            )
            _bone(film, view, line, rng.normal(8, 0.6), behind)
            if 1 <= rib < 9:
                start = top + drop * 1.7
                ahead = curve(
                    [
                        (side * reach, start),
                        (side * reach * 0.8, start + 20),
                        (side * (reach * 0.45 + 6), start + 28 + rng.normal(0, 3)),
                    ]
                )
                _bone(film, view, ahead, rng.normal(9, 0.8), front)
    for side in (-1, 1):
        out = rng.uniform(0, 26)
        blade = [
            (96 + out, -112),
            (118 + out, -104),
            (150, -98),
            (146, -60),
            (118 + out, 18),
            (108 + out, 10),
            (100 + out, -50),
        ]
        film.add(view(closed(np.array(blade) * np.array([side, 1]), 120, 3)), rng.uniform(0.05, 0.13), 1.8)
        edge = curve(np.array([(98 + out, -105), (101 + out, -50), (110 + out, 14)]) * np.array([side, 1]))
        film.line(view(edge), 3 * view.scale, 0.07, 1.2)
        spine = curve(np.array([(100 + out, -88), (130, -112), (160, -122)]) * np.array([side, 1]))
        _bone(film, view, spine, 9, 0.08)
        film.add(view(disk((side * 166, -100), (20, 23))), 0.18, 2)
    chest_bone = np.array([(-15, -92), (15, -92), (11, -60), (10, 30), (-10, 30), (-11, -60)]) + np.array(
        [8 * view.twist, 0]
    )
    film.add(view(closed(chest_bone, 100, 2)), rng.uniform(0.0, 0.08), 2)


def _bone(film: Film, view: Project, line: Points, width: float, value: float) -> None:
    """A long bone: a band with brighter borders."""
    band = view(ribbon(line, np.full(len(line), width / 2)))
    film.add(band, value * 0.7, 1.0)
    half = len(band) // 2
    film.line(band[:half], 1.3, value * 0.6, 0.8)
    film.line(band[half:], 1.3, value * 0.6, 0.8)


def draw_devices(rng: np.random.Generator, film: Film, view: Project) -> None:
    """Electrodes, tubes, a pacemaker, wires of the breast bone, a letter."""
    scale = view.scale
    if rng.random() < 0.25:
        for _ in range(int(rng.integers(2, 6))):
            spot = np.array([rng.uniform(-110, 110), rng.uniform(-100, 100)])
            film.add(view(disk((spot[0], spot[1]), (5, 5))), 0.5, 0.8)
            way = curve(np.stack([spot, spot + rng.normal(0, 40, 2), np.array([rng.choice([-190, 190]), 150.0])]))
            film.line(view(way), 1.6, 0.3, 0.6)
    if rng.random() < 0.18:
        tube = curve([(0, -190), (2, -120), (-1, -60), (4, 20), (26, 95), (50, 130)])
        film.line(view(tube), 2.2 * scale, rng.uniform(0.15, 0.4), 0.7)
    if rng.random() < 0.18:
        side = rng.choice([-1, 1])
        line = curve([(side * 120, -70), (side * 90, -96), (side * 40, -92), (-12, -70), (-20, -5)])
        film.line(view(line), 2 * scale, rng.uniform(0.15, 0.35), 0.7)
    if rng.random() < 0.08:
        box = closed(np.array([(72, -88), (106, -92), (110, -60), (76, -56)]), 80, 3)
        film.cover(view(box), 1.7)
        film.line(view(curve([(76, -86), (40, -84), (-16, -40), (-10, 40), (40, 80)])), 2.0, 0.6, 0.6)
    if rng.random() < 0.08:
        for y in range(-70, 40, 18):
            film.line(view(disk((rng.normal(0, 1), y), (6, 4))), 1.2, 0.6, 0.6)
    if rng.random() < 0.5:
        corner = np.array([(0, 0), (4, 0), (4, 14), (10, 14), (10, 18), (0, 18)]) + np.array(
            [film.pixels.shape[1] - 30, 12]
        )
        film.cover(corner.astype(float), 2.0)
