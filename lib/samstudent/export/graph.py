"""A student with everything between stored pixels and probabilities on the image's grid, as one module for
``torch.jit.script`` and ``torch.onnx.export``."""

# Without the __future__ import of annotations: TorchScript compiles these modules and needs the types themselves.
import torch
from monai.data.utils import compute_importance_map
from torch import Tensor

from samstudent.export.resampling import Intensity, axis_weights, float64, numbers
from samstudent.task import Task


class ImageStudent(torch.nn.Module):
    """Student of 2D images: stored pixels float32 (1, 3 or named channels, H, W) to probabilities float32 (S, H, W).

    Args:
        network: probabilities (B, S, *size) of images (B, C, *size), see ``plain_network``.
        task: of the student.
    """

    def __init__(self, network: torch.nn.Module, task: Task) -> None:
        super().__init__()
        self.network = network
        self.intensity = intensity_of(task)
        self.height, self.width = task.student.size

    def forward(self, pixels: Tensor, bounds: Tensor | None = None) -> Tensor:
        """``bounds``: as of ``Intensity``."""
        scaled = self.intensity(pixels, bounds)
        height, width = float64(pixels.shape[1], pixels), float64(pixels.shape[2], pixels)
        scale = torch.minimum(self.height / height, self.width / width)
        inner_height = torch.clamp(torch.round(height * scale), 1.0, float(self.height))
        inner_width = torch.clamp(torch.round(width * scale), 1.0, float(self.width))
        source_rows, source_columns = numbers(pixels.shape[1], pixels), numbers(pixels.shape[2], pixels)
        rows = numbers(self.height, pixels) - torch.floor((self.height - inner_height) / 2)
        columns = numbers(self.width, pixels) - torch.floor((self.width - inner_width) / 2)
        vertical = axis_weights(rows, source_rows, height, inner_height)
        horizontal = axis_weights(columns, source_columns, width, inner_width)
        shown = vertical @ (scaled @ horizontal.t())
        probabilities = self.network(shown[None])[0]
        vertical = axis_weights(source_rows, rows, inner_height, height)
        horizontal = axis_weights(source_columns, columns, inner_width, width)
        return torch.clamp(vertical @ (probabilities @ horizontal.t()), 0.0, 1.0)


class VolumeStudent(torch.nn.Module):
    """Student of volumes: stored voxels float32 (1 or named channels, Z, Y, X), canonical, to probabilities float32 (S,
    Z, Y, X).

    Args:
        network: as of ``ImageStudent``.
        task: of the student.
    """

    importance: Tensor

    def __init__(self, network: torch.nn.Module, task: Task) -> None:
        super().__init__()
        self.network = network
        self.intensity = intensity_of(task)
        self.size = list(task.student.size)
        self.spacing = [float(step) for step in task.student.spacing]
        self.structures = len(task.names)
        self.register_buffer("importance", importance_of(task))

    def forward(
        self,
        pixels: Tensor,
        spacing: Tensor | None = None,
        bounds: Tensor | None = None,
    ) -> Tensor:
        """``spacing``: float64 (3,), z, y, x, in mm; None: the task's. ``bounds``: as of ``Intensity``."""
        scaled = self.intensity(pixels, bounds)
        source = [int(side) for side in pixels.shape[1:]]
        inner = source
        if spacing is not None:
            ratios = [float(spacing[axis]) / self.spacing[axis] for axis in range(3)]
            inner = [max(1, int(round(source[axis] * ratios[axis]))) for axis in range(3)]  # noqa: RUF046
        return torch.clamp(resize(self.by_windows(resize(scaled, inner)), source), 0.0, 1.0)

    def by_windows(self, shown: Tensor) -> Tensor:
        """Probabilities (S, Z, Y, X) of a volume on the student's grid (C, Z, Y, X): means over windows that overlap by
        half, weighted by a Gaussian around their centres, as by MONAI's ``SlidingWindowInferer``."""
        before, after = [0, 0, 0], [0, 0, 0]
        for axis in range(3):
            missing = max(0, self.size[axis] - shown.shape[axis + 1])
            before[axis], after[axis] = missing // 2, missing - missing // 2
        shown = torch.nn.functional.pad(shown, [before[2], after[2], before[1], after[1], before[0], after[0]])
        depth, height, width = int(shown.shape[1]), int(shown.shape[2]), int(shown.shape[3])
        total = torch.zeros([self.structures, depth, height, width], device=shown.device)
        weight = torch.zeros([depth, height, width], device=shown.device)
        dz, dy, dx = self.size[0], self.size[1], self.size[2]
        for z in window_starts(depth, dz):
            for y in window_starts(height, dy):
                for x in window_starts(width, dx):
                    window = shown[None, :, z : z + dz, y : y + dy, x : x + dx]
                    found = self.network(window.contiguous())[0]
                    total[:, z : z + dz, y : y + dy, x : x + dx] += found * self.importance
                    weight[z : z + dz, y : y + dy, x : x + dx] += self.importance
        return (total / weight)[
            :,
            before[0] : depth - after[0],
            before[1] : height - after[1],
            before[2] : width - after[2],
        ]


class BatchedStudent(torch.nn.Module):
    """A student on batches, as MONAI's networks are called, with the background as a channel where structures exclude
    each other.

    Args:
        student: ``ImageStudent`` or ``VolumeStudent``.
        task: of the student.
    """

    def __init__(self, student: torch.nn.Module, task: Task) -> None:
        super().__init__()
        self.student, self.overlap = student, task.overlap
        self.named = bool(task.image.sequences)

    def channels_of(self, pixels: Tensor) -> Tensor:
        """Named channels as they are; of one to four others one or three: without opacity."""
        if self.named:
            return pixels
        return pixels[:3] if pixels.shape[0] >= 3 else pixels[:1]

    def with_background(self, probabilities: Tensor) -> Tensor:
        """(S, *spatial) to the channels of the result."""
        if self.overlap:
            return probabilities
        return torch.cat([1 - probabilities.sum(dim=0, keepdim=True), probabilities])


class BatchedImages(BatchedStudent):
    """``forward``: stored pixels float32 (B, 1 to 4 or named channels, H, W) to probabilities (B, outputs, H, W).

    The outputs are the structures, or background and structures. ``bounds``: float64 (B, 2), of named channels (B, C,
    2), as of ``Intensity``.
    """

    def forward(self, images: Tensor, bounds: Tensor | None = None) -> Tensor:
        found: list[Tensor] = []
        for number in range(images.shape[0]):
            own = bounds[number] if bounds is not None else None
            found.append(self.with_background(self.student(self.channels_of(images[number]), own)))
        return torch.stack(found)


class BatchedVolumes(BatchedStudent):
    """``forward``: as ``BatchedImages`` on (B, C, Z, Y, X). ``spacing``: float64 (B, 3), z, y, x, in mm."""

    def forward(
        self,
        images: Tensor,
        spacing: Tensor | None = None,
        bounds: Tensor | None = None,
    ) -> Tensor:
        found: list[Tensor] = []
        for number in range(images.shape[0]):
            steps = spacing[number] if spacing is not None else None
            own = bounds[number] if bounds is not None else None
            found.append(self.with_background(self.student(self.channels_of(images[number]), steps, own)))
        return torch.stack(found)


class ImageMasks(torch.nn.Module):
    """``ImageStudent`` with masks, for ONNX: pixels (C, H, W), bounds float64 (2,), of named channels (C, 2), to masks
    uint8 (S, H, W), and probabilities float32 (S, H, W)."""

    def __init__(self, student: ImageStudent, overlap: bool) -> None:
        super().__init__()
        self.student, self.overlap = student, overlap

    def forward(self, pixels: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = self.student(pixels, bounds)
        return binary(probabilities, self.overlap), probabilities


def binary(probabilities: Tensor, overlap: bool) -> Tensor:
    """Masks uint8 (S, *spatial), as of ``student.predict.binarize``."""
    if overlap:
        return (probabilities >= 0.5).to(torch.uint8)
    highest = probabilities.max(dim=0)
    present = highest.values > 1 - probabilities.sum(dim=0)
    structures = torch.arange(probabilities.shape[0]).reshape(-1, 1, 1)
    return ((highest.indices[None] == structures) & present[None]).to(torch.uint8)


def intensity_of(task: Task) -> Intensity:
    """Intensity scaling of a task."""
    section = task.image
    percentiles, named = section.intensity != "window", bool(section.sequences)
    return Intensity(section.count, section.low, section.high, percentiles, named)


def importance_of(task: Task) -> Tensor:
    """Weights float32 (*size) of the pixels of a window, as of MONAI's sliding window."""
    weights = compute_importance_map(task.student.size, mode="gaussian", sigma_scale=0.125)
    return weights.clamp(min=max(float(weights.min()), 1e-3))


def resize(volume: Tensor, shape: list[int]) -> Tensor:
    """Resample (C, Z, Y, X) to ``shape``, as ``student.grid.resize``."""
    z, y, x = axis_matrix(volume, 1, shape[0]), axis_matrix(volume, 2, shape[1]), axis_matrix(volume, 3, shape[2])
    planes = y @ (volume @ x.t())
    return (z @ planes.flatten(2)).reshape([volume.shape[0], shape[0], shape[1], shape[2]])


def axis_matrix(volume: Tensor, axis: int, side: int) -> Tensor:
    """Matrix that resamples an axis to ``side``."""
    old = int(volume.shape[axis])
    return axis_weights(numbers(side, volume), numbers(old, volume), float64(old, volume), float64(side, volume))


def window_starts(side: int, window: int) -> list[int]:
    """First pixels of windows that cover an axis and overlap by half or more."""
    step = window if side == window else max(1, window // 2)
    starts: list[int] = []
    start = 0
    while start + window < side:
        starts.append(start)
        start += step
    starts.append(side - window)
    return starts
