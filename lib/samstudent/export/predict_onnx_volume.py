"""Masks of a volume by an exported student; needs onnxruntime, numpy and nibabel, not samstudent.

python predict_onnx.py model.onnx volume.nii.gz masks.nii.gz
python predict_onnx.py model.onnx case_T1.nii.gz case_T2.nii.gz masks.nii.gz    # channels with names, as in model.json
"""

import json
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import onnxruntime
from numpy.typing import NDArray


def scaled(pixels: NDArray[Any], how: dict[str, Any]) -> NDArray[Any]:
    """[low, high] to [0, 1]."""
    low, high = how["low"], how["high"]
    if how["kind"] != "window":
        low, high = map(float, np.percentile(pixels.ravel()[:: max(1, pixels.size // 4194304)], [low, high]))
        if low >= high:
            low, high = float(pixels.min()), float(pixels.max())
    if low >= high:
        return np.zeros_like(pixels)
    return np.clip((np.clip(pixels, low, high) - np.float32(low)) / np.float32(high - low), 0, 1)


def resampled(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Linear resampling of the last three axes, with antialiasing."""
    for axis, new in enumerate(shape, array.ndim - 3):
        step = array.shape[axis] / new
        distance = np.arange(array.shape[axis]) + 0.5 - (np.arange(new)[:, None] + 0.5) * step
        weights = np.maximum(0, 1 - np.abs(distance) / max(1, step))
        weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        array = np.moveaxis(np.tensordot(weights, array, axes=(1, axis)), 0, axis)
    return array


def by_windows(session: Any, volume: NDArray[Any]) -> NDArray[Any]:
    """Probabilities (structures, z, y, x) of (channels, z, y, x): weighted means over windows that overlap by half."""
    channels, *size = session.get_inputs()[0].shape[1:]
    missing = [max(0, window - side) for window, side in zip(size, volume.shape[1:], strict=True)]
    padded = np.pad(volume, [(0, 0), *((gap // 2, gap - gap // 2) for gap in missing)])
    weights = np.ones((), dtype=np.float32)
    for window in size:
        ramp = np.exp(-((np.arange(window) - (window - 1) / 2) ** 2) / (2 * (0.125 * window) ** 2))
        weights = weights[..., None] * ramp.astype(np.float32)
    weights = np.maximum(weights, max(weights.min(), np.float32(1e-3)))
    starts = []
    for window, side in zip(size, padded.shape[1:], strict=True):
        starts.append([*range(0, side - window, window // 2), side - window])
    total = np.zeros((session.get_outputs()[0].shape[1], *padded.shape[1:]), dtype=np.float32)
    weight = np.zeros_like(padded[0])
    for corner in product(*starts):
        part = tuple(slice(start, start + window) for start, window in zip(corner, size, strict=True))
        window = np.repeat(padded[(slice(None), *part)], channels // len(padded), axis=0)[None]
        total[(slice(None), *part)] += session.run(None, {"window": window})[0][0] * weights
        weight[part] += weights
    inside = tuple(slice(gap // 2, gap // 2 + side) for gap, side in zip(missing, volume.shape[1:], strict=True))
    return (total / weight)[(slice(None), *inside)]


def main(model: str, *files: str) -> None:
    *images, output = files
    description = json.loads(Path(model).with_suffix(".json").read_text(encoding="utf-8"))
    volumes = [nibabel.as_closest_canonical(nibabel.load(image)) for image in images]
    voxels = [volume.get_fdata(dtype=np.float32) for volume in volumes]
    channels = np.concatenate([part.reshape(*part.shape[:3], -1).transpose(3, 2, 1, 0) for part in voxels])
    volume, shape, expected = volumes[0], channels.shape[1:], description["image"]["files"]
    if len(channels) != expected:
        sys.exit(f"{len(channels)} channels; expected {expected}: {', '.join(description['image']['channels'])}")
    ratios = nibabel.affines.voxel_sizes(volume.affine)[::-1] / np.array(description["grid"]["spacing_mm"])
    inner = [max(1, round(side * ratio)) for side, ratio in zip(shape, ratios, strict=True)]
    shown = resampled(np.stack([scaled(channel, description["intensity"]) for channel in channels]), inner)
    probabilities = by_windows(onnxruntime.InferenceSession(model), shown)
    probabilities = np.clip(resampled(probabilities, shape), 0, 1)
    if description["overlap"]:  # one volume for each structure
        found = (probabilities >= 0.5).astype(np.uint8).transpose(3, 2, 1, 0)
    else:
        present = probabilities.max(axis=0) > 1 - probabilities.sum(axis=0)
        found = ((probabilities.argmax(axis=0) + 1) * present).astype(np.uint8).transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(found, volume.affine), output)


if __name__ == "__main__":
    main(*sys.argv[1:])
