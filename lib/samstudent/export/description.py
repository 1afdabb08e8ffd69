"""Description of an exported student: everything that a program needs beside the model, as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from samstudent import __version__
from samstudent.export.resampling import LUMINANCE, PERCENTILE_SAMPLE
from samstudent.student.predict import Student
from samstudent.task import Task

_RESAMPLING = (
    "Linear along each axis, with antialiasing: the weight of old pixel j for new pixel i is max(0, 1 - abs(j + 0.5 - "
    "(i + 0.5) * s) / max(1, s)), divided by the sum over j, where s = old size / new size. It is "
    "torch.nn.functional.interpolate(mode='bilinear', antialias=True, align_corners=False)."
)


@dataclass(frozen=True)
class ExportedRound:
    """Origin of an exported student.

    Attributes:
        study: study folder, or URL of the PACS.
        round: id of the round that trained it.
        dice: its Dice on the hold-out by structure, with ``mean``; None: not measured.
    """

    study: str
    round: str
    dice: dict[str, float | None] | None = None


def description_of(student: Student, origin: ExportedRound) -> dict[str, Any]:
    """Inputs, outputs, pre- and post-processing of an exported student, as JSON values."""
    task = student.task
    return {
        "made_with": f"samstudent {__version__}",
        "task": task.name,
        "description": task.description,
        "round": origin.round,
        "model_sha256": student.version,
        "dice_on_hold_out": origin.dice,
        "dimension": task.dimension,
        "structures": task.structures,
        "overlap": task.overlap,
        "image": _image(task),
        "intensity": _intensity(task),
        "grid": _grid(task),
        "network": {
            "name": task.student.network,
            "input": [1, task.image.count, *task.student.size],
            "output": [1, len(task.names), *task.student.size],
            "activation": "sigmoid" if task.overlap else "softmax with background, which is left out",
            "precision": "float32; samstudent uses bfloat16 or float16 where the processor has it",
        },
        "masks": _masks(task),
        "files": _files(task),
    }


def _image(task: Task) -> dict[str, Any]:
    named = list(task.image.sequences)
    channels = named or (["red", "green", "blue"] if task.image.channels == 3 else ["luminance"])
    orientation = (
        "upright, as displayed: the orientation tag of the file is applied"
        if task.dimension == 2
        else "z, y, x increase to head, front and right of the patient (closest to RAS; nibabel: as_closest_canonical)"
    )
    return {
        "axes": ["channel", *"zyx"[-task.dimension :]],
        "channels": channels,
        "luminance": list(LUMINANCE),
        "files": len(named) or 1,
        "grey_images": "one file for each channel, all with the same pixels (voxels) of the body; or one with all"
        if named
        else "one channel; repeated where three are expected",
        "opacity": "left out",
        "values": "as stored in the file, not scaled; CT in Hounsfield units (with the rescale slope and intercept)",
        "orientation": orientation,
    }


def _intensity(task: Task) -> dict[str, Any]:
    section, steps = task.image, dict[str, Any]()
    if section.intensity == "window":
        steps["bounds"] = "low and high are values of the image"
    else:
        of = "channel" if section.sequences else "luminance"
        steps["bounds"] = (
            f"low and high are percentiles of the {of} (numpy.percentile, linear) of every k-th pixel, where "
            f"k = max(1, number of pixels // {PERCENTILE_SAMPLE}); of a constant part its minimum and maximum"
        )
    if section.intensity == "auto":
        steps["dicom"] = (
            "The VOI window of a DICOM file takes precedence over the percentiles: give its lower and upper value as "
            "bounds. Percentiles leave out pixels with the padding value"
        )
    return {
        "kind": section.intensity,
        "low": section.low,
        "high": section.high,
        **steps,
        "scaling": "clip((value - low) / (high - low), 0, 1); 0 where low = high; "
        + ("each channel has its own bounds" if section.sequences else "the same bounds for all channels"),
    }


def _grid(task: Task) -> dict[str, Any]:
    if task.dimension == 2:
        return {
            "size": list(task.student.size),
            "placement": "aspect kept, centred: s = min(size / shape) over both axes; inner = min(size, max(1, "
            "round_half_to_even(shape * s))); first pixel = (size - inner) // 2; 0 around the image",
            "resampling": _RESAMPLING,
            "back": "probabilities inside the image, resampled to its shape in the same way, clipped to 0 to 1",
        }
    return {
        "spacing_mm": list(task.student.spacing),
        "placement": "new shape = max(1, round_half_to_even(shape * (spacing of the image / spacing_mm))), z, y, x",
        "resampling": _RESAMPLING,
        "window": list(task.student.size),
        "windows": "a smaller volume is padded with 0 on both sides (before: half, rounded down); steps of half a "
        "window (a whole one where the window covers the axis), the last window at the end of the axis; mean of the "
        "probabilities, weighted by exp(-d^2 / (2 (0.125 * window)^2)) along each axis, d from the centre, at least "
        "0.001 (MONAI's SlidingWindowInferer(overlap=0.5, mode='gaussian'))",
        "back": "resampled to the shape of the image in the same way, clipped to 0 to 1",
    }


def _masks(task: Task) -> str:
    if task.overlap:
        return "a pixel belongs to each structure whose probability is 0.5 or higher"
    return (
        "a pixel belongs to the structure of the highest probability if it is higher than that of the background, "
        "which is 1 - the sum of the others; with equal ones to the first in the order of the values"
    )


def _files(task: Task) -> dict[str, Any]:
    spatial = ["height", "width"] if task.dimension == 2 else ["z", "y", "x"]
    bounds = "values that become black and white in place of intensity; nan, nan: those of intensity"
    channels, structures = task.image.count, len(task.names)
    pair = [channels, 2] if task.image.sequences else [2]
    if task.dimension == 2:
        onnx: dict[str, Any] = {
            "contains": "all steps from stored pixels to masks on the image's own pixels",
            "inputs": {
                "pixels": {"dtype": "float32", "shape": [channels, *spatial]},
                "bounds": {"dtype": "float64", "shape": pair, "meaning": bounds},
            },
            "outputs": {
                "masks": {"dtype": "uint8", "shape": [structures, *spatial], "meaning": "0 or 1 for each structure"},
                "probabilities": {"dtype": "float32", "shape": [structures, *spatial]},
            },
        }
    else:
        size = list(task.student.size)
        onnx = {
            "contains": "the network and its activation, for one window; predict_onnx.py has the other steps",
            "inputs": {"window": {"dtype": "float32", "shape": [1, channels, *size]}},
            "outputs": {"probabilities": {"dtype": "float32", "shape": [1, structures, *size]}},
        }
    any_channels = channels if task.image.sequences else "1 to 4 channels"
    inputs: dict[str, Any] = {"images": {"dtype": "float32", "shape": ["batch", any_channels, *spatial]}}
    if task.dimension == 3:
        inputs["spacing"] = {"dtype": "float64", "shape": ["batch", 3], "meaning": "z, y, x in mm", "optional": True}
    inputs["bounds"] = {"dtype": "float64", "shape": ["batch", *pair], "meaning": bounds, "optional": True}
    outputs = [*([] if task.overlap else ["background"]), *task.names]
    torchscript = {
        "contains": "all steps from stored values to probabilities on the image's own grid",
        "inputs": inputs,
        "output": {"dtype": "float32", "shape": ["batch", len(outputs), *spatial], "channels": outputs},
    }
    return {"model.onnx": onnx, "model.ts": torchscript}
