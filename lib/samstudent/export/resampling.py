"""Intensity scaling and resampling of a student as tensor operations that TorchScript and ONNX have.

The results are those of ``imaging.case.for_student`` and ``student.grid`` but for the order of sums in float32. Sizes
may differ from call to call: resampling along an axis is the product with a matrix, whose shape is that of the image.
"""

# Without the __future__ import of annotations: TorchScript compiles these modules and needs the types themselves.
import torch
from torch import Tensor

#: Luminance of red, green and blue, ITU-R BT.601, as in ``imaging.case``.
LUMINANCE = (0.299, 0.587, 0.114)
#: Percentiles of larger images are taken from an evenly spaced part, as in ``imaging.case``.
PERCENTILE_SAMPLE = 1 << 22


class Intensity(torch.nn.Module):
    """Stored values float32 (1 or 3, *spatial) to [0, 1], float32 (channels, *spatial).

    Args:
        channels: of the student's input.
        low, high: values that become black and white, or percentiles of the luminance.
        percentiles: whether they are percentiles.
        named: whether the channels are registered sequences: as many in, each with a range of its own.
    """

    luminance: Tensor
    limits: Tensor

    def __init__(self, channels: int, low: float, high: float, percentiles: bool, named: bool = False) -> None:
        super().__init__()
        self.channels, self.percentiles, self.named = channels, percentiles, named
        self.low, self.high = float(low), float(high)
        self.sample = PERCENTILE_SAMPLE
        self.register_buffer("luminance", torch.tensor(LUMINANCE))
        self.register_buffer("limits", torch.tensor([low, high], dtype=torch.float64))

    def forward(self, pixels: Tensor, bounds: Tensor | None = None) -> Tensor:
        """``bounds``: float64 (2,), values that become black and white in place of those of the task; nan: none. Of
        named channels (channels, 2)."""
        if self.named:
            parts: list[Tensor] = []
            for number in range(self.channels):
                given = bounds[number] if bounds is not None else None
                parts.append(self.with_range(pixels[number : number + 1], pixels[number : number + 1], given))
            return torch.cat(parts)
        grey = pixels
        if pixels.shape[0] == 3:
            grey = torch.tensordot(self.luminance, pixels, dims=([0], [0]))[None]
        scaled = self.with_range(grey if self.channels == 1 else pixels, grey, bounds)
        if self.channels == 3 and pixels.shape[0] == 1:
            scaled = torch.cat([scaled, scaled, scaled])
        return scaled

    def with_range(self, pixels: Tensor, grey: Tensor, bounds: Tensor | None) -> Tensor:
        """Channels scaled by the range of ``grey`` (1, *spatial), or by given bounds, float64 (2,)."""
        own = self.own_bounds(grey)
        if bounds is not None:
            own = torch.where(torch.isnan(bounds).any(), own, bounds.to(torch.float64))
        return scale_between(pixels, own[0], own[1])

    def own_bounds(self, grey: Tensor) -> Tensor:
        """float64 (2,), by the task."""
        if not self.percentiles:
            return self.limits
        values = grey.reshape(-1)
        step = max(1, values.shape[0] // self.sample)
        ordered = torch.sort(values[::step])[0]
        low, high = percentile(ordered, self.low), percentile(ordered, self.high)
        # A constant image with a structure smaller than the share that the percentiles exclude.
        constant = low >= high
        low = torch.where(constant, values.min().to(torch.float64), low)
        high = torch.where(constant, values.max().to(torch.float64), high)
        return torch.stack([low, high])


def percentile(ordered: Tensor, share: float) -> Tensor:
    """Percentile, float64, of sorted values float32 (n,), interpolated as by numpy."""
    last = float64(ordered.shape[0], ordered) - 1
    position = last * (share / 100)
    below = torch.floor(position)
    part = position - below
    lower = ordered[below.to(torch.int64)]
    upper = ordered[torch.minimum(below + 1, last).to(torch.int64)]
    step = (upper - lower).to(torch.float64)
    return torch.where(part < 0.5, lower.to(torch.float64) + step * part, upper.to(torch.float64) - step * (1 - part))


def scale_between(pixels: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """[low, high] to [0, 1], clipped; all 0 where there is no range. ``low``, ``high``: float64 scalars."""
    low32, high32 = low.to(torch.float32), high.to(torch.float32)
    clipped = torch.clamp(pixels, min=low32, max=high32)
    # Halves: the range of values near float32's largest number must not overflow.
    span = (high / 2 - low / 2).to(torch.float32)
    ranged = low < high
    scaled = (clipped / 2 - (low / 2).to(torch.float32)) / torch.where(ranged, span, torch.ones_like(span))
    return torch.where(ranged, torch.clamp(scaled, 0.0, 1.0), torch.zeros_like(scaled))


def axis_weights(rows: Tensor, columns: Tensor, n_in: Tensor, n_out: Tensor) -> Tensor:
    """Matrix, float32 (R, C), that resamples an axis from ``n_in`` to ``n_out`` pixels linearly, with antialiasing.

    It is that of ``torch.nn.functional.interpolate(mode="bilinear", antialias=True)``, whose weights are computed in
    float32, too: a triangle around the centre of the new pixel, with the width of two old or new ones, whichever are
    larger.

    Args:
        rows: float64 (R,), numbers of the new pixels; rows outside of 0 to ``n_out`` are 0.
        columns: float64 (C,), numbers of the old pixels; columns outside of 0 to ``n_in`` are 0.
        n_in, n_out: float64 scalars.
    """
    scale = (n_in / n_out).to(torch.float32)
    centre = (scale.to(torch.float64) * (rows + 0.5)).to(torch.float32)
    inverse = 1 / torch.clamp(scale, min=1.0)
    distance = (columns[None].to(torch.float32) - centre[:, None]).to(torch.float64) + 0.5
    weight = torch.clamp(1 - (distance * inverse.to(torch.float64)).to(torch.float32).abs(), min=0.0)
    weight = weight * ((columns >= 0) & (columns < n_in)).to(torch.float32)[None]
    weight = weight * ((rows >= 0) & (rows < n_out)).to(torch.float32)[:, None]
    return weight / torch.clamp(weight.sum(dim=1, keepdim=True), min=1e-12)


def numbers(count: int, like: Tensor) -> Tensor:
    """0 to ``count - 1``, float64."""
    return torch.arange(count, dtype=torch.float64, device=like.device)


def float64(count: int, like: Tensor) -> Tensor:
    """A number of pixels as a scalar on the device of ``like``."""
    return torch.scalar_tensor(count, dtype=torch.float64, device=like.device)
