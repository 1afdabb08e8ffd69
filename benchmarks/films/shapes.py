"""Images of random shapes: round, oblong, hollow, with a rim, one over the other or shining through, on a texture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from films.raster import Mask, Pixels

#: Height of an image, and the widths of which one is drawn.
HEIGHT, WIDTHS = 256, (192, 256, 256)
#: Number of pixels above which a shape counts.
SMALLEST = 60
#: Radii of shapes, in pixels.
RADII = (6, 70)


def shapes(rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[Mask]]:
    """An image uint8 (y, x, 3), and the visible part of each of its one to eight shapes, bool (y, x); rarely none."""
    size = HEIGHT, int(rng.choice(WIDTHS))
    image = 0.5 + rng.uniform(0, 0.15) * _noise(rng, size, rng.uniform(20, 60))
    image = image + rng.uniform(0, 0.08) * _noise(rng, size, rng.uniform(1, 6))
    masks: list[Mask] = []
    for _ in range(int(rng.integers(1, 9))):
        mask, radius = _outline(rng, size)
        if mask.sum() < SMALLEST:
            continue
        contrast = rng.choice([-1, 1]) * rng.uniform(0.08, 0.4)
        soft = np.asarray(ndimage.gaussian_filter(mask.astype(float), rng.uniform(0.3, 3)))
        texture = 1 + rng.uniform(0, 0.5) * _noise(rng, size, rng.uniform(1, 5))
        if rng.random() < 0.3:  # a rim
            inner = ndimage.binary_erosion(mask, iterations=max(1, int(radius * 0.15))).astype(float)
            soft = np.clip(soft - ndimage.gaussian_filter(inner, 1) * rng.uniform(0.5, 0.9), 0, 1)
        if rng.random() < 0.3:  # what lies below shines through
            image = image + soft * contrast * texture
        else:
            masks = [other & ~mask for other in masks]
            image = image * (1 - soft) + soft * (0.5 + contrast * texture)
        masks.append(mask)
    image = image + rng.normal(size=size) * rng.uniform(0, 0.08)
    if rng.random() < 0.3:  # speckle
        image = image * (1 + rng.uniform(0, 0.4) * rng.normal(size=size))
    image = ndimage.gaussian_filter(image, rng.uniform(0, 1.2))
    return grey_image(image), [mask for mask in masks if mask.sum() > SMALLEST]


def grey_image(image: Pixels) -> NDArray[np.uint8]:
    """uint8 (..., 3): the 0.5th to the 99.5th percentile of an image as 0 to 255."""
    low, high = np.percentile(image, [0.5, 99.5])
    grey = (np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _outline(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Mask, float]:
    """A smooth closed outline, filled, sometimes hollow; and its radius in pixels."""
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    radius = float(np.exp(rng.uniform(*np.log(RADII))))
    row, column = rng.uniform(0, size[0]), rng.uniform(0, size[1])
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(1, 3)
    along = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
    across = ((y - row) * np.cos(angle) - (x - column) * np.sin(angle)) * aspect
    distance, direction = np.hypot(along, across), np.arctan2(across, along)
    bumps = sum(rng.normal() * 0.12 / k * np.cos(k * direction + rng.uniform(0, 6)) for k in range(2, 6))
    border = radius * (1 + bumps)
    mask = distance < border
    if rng.random() < 0.2:
        mask &= ~(distance < border * rng.uniform(0.4, 0.7))
    return mask, radius


def _noise(rng: np.random.Generator, size: tuple[int, int], smoothness: float) -> Pixels:
    noise: Pixels = ndimage.gaussian_filter(rng.normal(size=size), smoothness)
    return noise / noise.std()
