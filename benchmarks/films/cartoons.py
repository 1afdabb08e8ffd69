"""Simple drawings of panoramic and chest radiographs: ellipses with little around them.

They test whether a method works on such a task, not its quality on real images. Published results are of them, so they
stay as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Drawn = tuple[NDArray[np.float64], NDArray[np.bool_]]
#: FDI numbers in the order of the image, from the viewer's left.
UPPER = [*range(18, 10, -1), *range(21, 29)]
LOWER = [*range(48, 40, -1), *range(31, 39)]


def clouds(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> NDArray[np.float64]:
    """Soft noise of standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return noise / noise.std()


def ellipse(
    shape: tuple[int, int], centre: NDArray[np.float64], radii: NDArray[np.float64], turn: float = 0.0
) -> NDArray[np.float64]:
    """Distance from the centre (y, x) in radii (y, x) of an ellipse turned by ``turn`` radians; 1 is its border."""
    y, x = np.indices(shape, dtype=np.float64) - np.asarray(centre)[:, None, None]
    along, across = y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)
    return np.hypot(along / radii[0], across / radii[1])


def teeth(rng: np.random.Generator, shape: tuple[int, int] = (320, 640)) -> Drawn:
    """32 masks in the order of their FDI numbers; a pixel belongs to one tooth at most."""
    height, width = shape
    film = 0.35 + 0.05 * clouds(rng, shape, 30) + 0.03 * clouds(rng, shape, 6)
    masks = np.zeros((32, *shape), bool)
    names = sorted(UPPER + LOWER)
    middle, curve, pitch = height * rng.uniform(0.47, 0.53), rng.uniform(20, 45), rng.uniform(29, 33)
    for row, sign in ((UPPER, -1), (LOWER, 1)):
        shift = width / 2 + rng.normal(0, 8)
        for place, number in enumerate(row):
            if rng.random() < (0.4 if number % 10 == 8 else 0.05):
                continue
            across = (place - 7.5) / 7.5
            size = np.array([44 - 8 * abs(across), 11.5 + 4 * (number % 10 >= 6)]) * rng.normal(1, 0.06, 2)
            centre = np.array(
                [
                    middle - curve * across**2 + sign * (size[0] + 3 + rng.normal(0, 2)),
                    shift + (place - 7.5) * pitch + rng.normal(0, 1.5),
                ]
            )
            far = ellipse(shape, centre, size, sign * across * 0.25 + rng.normal(0, 0.05))
            # A crown is wider than the root.
            crown = sign * (centre[0] - np.indices(shape)[0]) / size[0]
            mask = (far * (1.15 - 0.25 * np.clip(crown, -1, 1)) < 1) & ~masks.any(axis=0)
            masks[names.index(number)] = mask
            film += ndimage.gaussian_filter(mask * rng.uniform(0.18, 0.32), 1.5)
            film -= 0.1 * ndimage.gaussian_filter((far < 0.25).astype(float), 2)
    return film + 0.03 * rng.normal(size=shape), masks


def chest(rng: np.random.Generator, shape: tuple[int, int] = (320, 320)) -> Drawn:
    """5 masks in the order of the task ``chest``."""
    height, width = shape
    film = 0.6 + 0.06 * clouds(rng, shape, 40) + 0.03 * clouds(rng, shape, 8)
    masks = np.zeros((5, *shape), bool)
    top, middle, size = height * rng.uniform(0.5, 0.56), width * rng.uniform(0.47, 0.53), rng.normal(1, 0.07)
    for place, side in ((0, 1), (1, -1)):
        radii = np.array([105, 52]) * size * rng.normal(1, 0.06, 2)
        centre = np.array([top + rng.normal(0, 4), middle + side * 66 * size + rng.normal(0, 3)])
        masks[place] = ellipse(shape, centre, radii, side * rng.normal(-0.12, 0.05)) < 1
        film -= ndimage.gaussian_filter(masks[place] * rng.uniform(0.2, 0.32), 3)
    heart = ellipse(
        shape,
        np.array([top + 45, middle + 18]) + rng.normal(0, 4, 2),
        np.array([42, 55]) * size * rng.normal(1, 0.08, 2),
        rng.normal(0.4, 0.1),
    )
    masks[2] = heart < 1
    # Its left border is a step, its right and lower ones are lost.
    film += ndimage.gaussian_filter(masks[2] * 0.14 * np.clip((np.indices(shape)[1] - middle + 40) / 60, 0, 1), 5)
    for place, side in ((3, 1), (4, -1)):
        centre = np.array([top - 88 * size + rng.normal(0, 4), middle + side * 62 * size + rng.normal(0, 4)])
        masks[place] = (
            ellipse(shape, centre, np.array([6.0, 52.0]) * rng.normal(1, 0.08, 2), side * rng.normal(0.25, 0.08)) < 1
        )
        film += ndimage.gaussian_filter(masks[place] * rng.uniform(0.06, 0.12), 1.5)
    for rib in range(9):
        y = top - 95 + 24 * rib + 18 * np.cos((np.indices(shape)[1] - middle) / 60)
        film += 0.05 * np.exp(-(((np.indices(shape)[0] - y) / 4) ** 2))
    return film + 0.03 * rng.normal(size=shape), masks
