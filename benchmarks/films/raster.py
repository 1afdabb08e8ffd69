"""Film on which outlines and lines are drawn, as a sum of attenuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

#: Points (n, 2) as x, y.
Points = NDArray[np.float64]
Pixels = NDArray[np.float64]
Mask = NDArray[np.bool_]
Box = tuple[slice, slice]
#: Outlines are drawn this many times larger and then averaged.
_FINER = 3


@dataclass(frozen=True)
class Film:
    """Sum of attenuations (y, x); what is drawn outside is lost.

    Attributes:
        pixels: the attenuations, changed in place.
    """

    pixels: Pixels

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Film:
        return cls(np.zeros(shape))

    def add(self, points: Points, value: float, blur: float = 0.7) -> None:
        """Add an outline filled with ``value``; ``blur``: sigma in pixels."""
        box, cover = coverage(points, self.pixels.shape, margin=int(3 * blur) + 2)
        if cover.size:
            self.pixels[box] += value * blurred(cover, (blur, blur))

    def line(self, points: Points, width: float, value: float, blur: float = 0.7) -> None:
        """Add a line of ``width`` pixels."""
        self.add(ribbon(points, np.full(len(points), width / 2)), value, blur)

    def cover(self, points: Points, value: float, blur: float = 0.6) -> None:
        """Raise what is inside an outline to at least ``value``: metal hides what is behind it."""
        box, cover = coverage(points, self.pixels.shape, margin=int(3 * blur) + 2)
        if cover.size:
            cover = ndimage.gaussian_filter(cover, blur)
            self.pixels[box] += cover * np.maximum(value - self.pixels[box], 0)


def coverage(points: Points, shape: tuple[int, ...], margin: int = 2) -> tuple[Box, Pixels]:
    """Share of each pixel inside a closed outline, in the box of the film that holds it."""
    low = np.floor(points.min(axis=0)).astype(int) - margin
    high = np.ceil(points.max(axis=0)).astype(int) + margin + 1
    low, high = np.maximum(low, 0), np.minimum(high, np.array(shape[::-1]))
    size = np.maximum(high - low, 0)
    box = (slice(low[1], low[1] + size[1]), slice(low[0], low[0] + size[0]))
    if not size.all():
        return box, np.zeros((size[1], size[0]))
    image = Image.new("L", (int(size[0]) * _FINER, int(size[1]) * _FINER))
    corners = ((points - low) * _FINER).ravel().tolist()
    ImageDraw.Draw(image).polygon(corners, fill=255)
    return box, np.asarray(image.reduce(_FINER), dtype=np.float64) / 255


def mask_of(points: Points, shape: tuple[int, int]) -> Mask:
    """Pixels of the film of which an outline covers at least half."""
    mask = np.zeros(shape, bool)
    box, cover = coverage(points, shape)
    mask[box] = cover >= 0.5
    return mask


def ribbon(points: Points, halves: NDArray[np.float64]) -> Points:
    """Outline of a band along a line, with half its width at each point."""
    along = np.gradient(points, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * halves[:, None]
    return np.concatenate([points + across, (points - across)[::-1]])


def curve(knots: Sequence[tuple[float, float]] | Points, count: int = 40) -> Points:
    """Smooth open line through some points."""
    points = np.asarray(knots, dtype=np.float64)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    at = np.concatenate([[0], np.cumsum(np.maximum(steps, 1e-6))])
    return np.asarray(PchipInterpolator(at, points)(np.linspace(0, at[-1], count)))


def closed(knots: Sequence[tuple[float, float]] | Points, count: int = 120, smooth: float = 3.0) -> Points:
    """Smooth closed outline near some points; ``smooth``: sigma in points of the outline."""
    points = np.asarray(knots, dtype=np.float64)
    points = np.concatenate([points, points[:1]])
    at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    even = np.linspace(0, at[-1], count, endpoint=False)
    line = np.stack([np.interp(even, at, points[:, axis]) for axis in (0, 1)], axis=1)
    return np.asarray(ndimage.gaussian_filter1d(line, smooth, axis=0, mode="wrap"))


def annotated(rng: np.random.Generator, points: Points, off: float) -> Points:
    """Outline as an annotator draws it: off by a smooth distance of standard deviation ``off``."""
    noise = ndimage.gaussian_filter1d(rng.normal(size=len(points)), 5, mode="wrap")
    along = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    return np.asarray(points + off * (noise / noise.std())[:, None] * normal)


def disk(centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0) -> Points:
    """Outline of an ellipse; ``turn`` in radians."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x, y = radii[0] * np.cos(angle), radii[1] * np.sin(angle)
    return np.stack(
        [centre[0] + x * np.cos(turn) - y * np.sin(turn), centre[1] + x * np.sin(turn) + y * np.cos(turn)], axis=1
    )


def blurred(pixels: Pixels, sigma: tuple[float, float]) -> Pixels:
    """Gaussian blur (y, x), on a coarser grid where it is wide."""
    factors = [max(1, int(s / 2.5)) for s in sigma]
    if max(factors) == 1:
        return np.asarray(ndimage.gaussian_filter(pixels, sigma))
    size = (pixels.shape[1], pixels.shape[0])
    small = [-(-n // f) for n, f in zip(size, factors[::-1], strict=True)]
    coarse = Image.fromarray(pixels.astype(np.float32)).resize(small, Image.Resampling.BOX)
    # The sigma left after what both resamplings blur is close enough.
    coarse = ndimage.gaussian_filter(np.asarray(coarse), [s / f for s, f in zip(sigma, factors, strict=True)])
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR), dtype=np.float64)


def clouds(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Pixels:
    """Soft noise of standard deviation 1."""
    factor = max(1, int(sigma / 2.5))
    small = (-(-shape[0] // factor), -(-shape[1] // factor))
    noise = ndimage.gaussian_filter(rng.standard_normal(small, dtype=np.float32), sigma / factor)
    if factor > 1:
        noise = np.asarray(Image.fromarray(noise).resize(shape[::-1], Image.Resampling.BILINEAR))
    return np.asarray(noise / noise.std(), dtype=np.float64)
