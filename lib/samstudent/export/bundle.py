"""Student as a MONAI bundle: metadata, inference config and TorchScript network. It needs MONAI, not samstudent.

The network is called as MONAI's are, but contains pre- and post-processing: MONAI's transforms would resample
differently. Specification: https://docs.monai.io/en/stable/mb_specification.html
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from samstudent.task import Task
from samstudent.util.files import atomic_write

#: JSON schema that ``python -m monai.bundle verify_metadata`` downloads.
_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
#: Modes of Pillow whose samples are no intensities.
_CONVERTED = ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV")


def write_bundle(folder: Path, model: Path, torchscript: Path, description: Mapping[str, Any], task: Task) -> None:
    """Write a bundle.

    Args:
        folder: root of the bundle; created if missing.
        model: model file of the student, copied: initial weights of a later training (``samstudent train --start``).
        torchscript: file of ``write_torchscript``, copied.
        description: of ``description_of``, copied into ``docs``.
        task: of the student.
    """
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, folder / "models" / "model.pt")
    shutil.copyfile(torchscript, folder / "models" / "model.ts")
    _write_json(folder / "configs" / "metadata.json", metadata_of(description, task))
    _write_json(folder / "configs" / "inference.json", inference_of(task))
    _write_json(folder / "docs" / "processing.json", description)
    atomic_write(folder / "docs" / "README.md", _readme(description, task))


def metadata_of(description: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """``metadata.json``."""
    packages = {"pytorch-ignite": version("pytorch-ignite")}
    packages |= {"pillow": version("pillow")} if task.dimension == 2 else {"nibabel": version("nibabel")}
    dice = (description["dice_on_hold_out"] or {}).get("mean")
    shape, channels = ["*"] * task.dimension, task.image.count
    names = task.names if task.overlap else ["background", *task.names]
    # MONAI's programs compare versions as numbers.
    number = f"0.{int(description['round'][1:])}.0"
    low, high = (task.image.low, task.image.high) if task.image.intensity == "window" else (None, None)
    return {
        "schema": _SCHEMA,
        "version": number,
        "changelog": {number: f"student of round {description['round']}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": packages,
        "task": f"Segmentation of {', '.join(task.names)}",
        "description": task.description or f"Student of task {task.name}",
        "authors": "",
        "copyright": "",
        "intended_use": "",
        "eval_metrics": {} if dice is None else {"mean_dice": dice},
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude" if low is None else "raw",
                    "modality": "n/a",
                    "num_channels": channels,
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [] if low is None else [low, high],
                    "is_patch_data": False,
                    "channel_def": {str(i): name for i, name in enumerate(description["image"]["channels"])},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "classes" if task.overlap else "labels",
                    "num_channels": len(names),
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {str(i): name for i, name in enumerate(names)},
                }
            },
        },
    }


def inference_of(task: Task) -> dict[str, Any]:
    """``inference.json``: label maps of all images in ``dataset_dir`` into ``output_dir``."""
    patterns = ("*.png", "*.jpg", "*.jpeg", "*.bmp") if task.dimension == 2 else ("*.nii", "*.nii.gz")
    single = task.dimension == 2 and not task.overlap
    return {
        "imports": ["$import glob", "$from PIL import ImageOps"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/masks'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": _datalist(task, patterns),
        "network_def": {
            "_target_": "torch.jit.load",
            "f": "$@bundle_root + '/models/model.ts'",
            "map_location": "@device",
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(task)},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(task, ".png" if single else ".nii.gz")},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "amp": False,
            **({} if task.dimension == 2 else _SPACING_ARGUMENT),
        },
        "run": ["$@evaluator.run()"],
    }


def _datalist(task: Task, patterns: Sequence[str]) -> str:
    """Expression for the images; of named channels for the files of a case, which MONAI stacks."""
    paths = f"for pattern in {tuple(patterns)!r} for path in sorted(glob.glob(@dataset_dir + '/' + pattern))"
    texts = list(task.image.sequences.values())
    if not texts:
        return f"$[{{'image': path}} {paths}]"
    # The part of the name after the channel's text is the pattern's, without its star.
    first = f"path[: -len({texts[0]!r} + pattern[1:])]"
    files = f"[{first} + text + pattern[1:] for text in {texts!r}]"
    return f"$[{{'image': {files}}} {paths} if path.endswith({texts[0]!r} + pattern[1:])]"


#: The network of volumes takes the distances between voxels, (z, y, x), as a second argument.
_SPACING_ARGUMENT = {"prepare_batch": {"_target_": "PrepareBatchExtraInput", "extra_keys": ["spacing"]}}


def _preprocessing(task: Task) -> list[dict[str, Any]]:
    # MONAI's axes are x, y[, z].
    load: dict[str, Any] = {"_target_": "LoadImaged", "keys": "image"}
    if task.dimension == 2:
        upright = f"$lambda p: ImageOps.exif_transpose(p.convert('RGB') if p.mode in {_CONVERTED!r} else p)"
        load |= {"reader": "PILReader", "converter": upright}
    steps: list[dict[str, Any]] = [load, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
    steps.append({"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"})
    if task.dimension == 3:
        steps += [
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "CopyItemsd", "keys": "image", "names": "spacing"},
            {
                "_target_": "Lambdad",
                "keys": "spacing",
                "func": "$lambda image: torch.as_tensor(image.pixdim).flip(0).to(torch.float64)",
            },
        ]
    return [*steps, {"_target_": "Transposed", "keys": "image", "indices": [0, *range(task.dimension, 0, -1)]}]


def _postprocessing(task: Task, extension: str) -> list[dict[str, Any]]:
    how: dict[str, Any] = {"threshold": 0.5} if task.overlap else {"argmax": True}
    steps: list[dict[str, Any]] = [{"_target_": "AsDiscreted", "keys": "pred", **how}]
    # Axes, orientation, geometry and name of the image.
    steps.append(
        {"_target_": "Invertd", "keys": "pred", "orig_keys": "image", "transform": "@preprocessing"}
        | {"nearest_interp": True, "to_tensor": True}
    )
    steps.append(
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_ext": extension,
            "output_dtype": "$numpy.uint8",
            "output_postfix": "",
            "separate_folder": False,
            "resample": False,
        }
    )
    return steps


def _readme(description: Mapping[str, Any], task: Task) -> str:
    images, masks = ("PNG, JPEG, BMP", "PNG") if task.dimension == 2 else ("NIfTI", "NIfTI")
    found = "one NIfTI file with a channel for each structure" if task.overlap else f"one label map ({masks})"
    package = "pillow" if task.dimension == 2 else "nibabel"
    about = task.description or f"Student of task {task.name}"
    if texts := list(task.image.sequences.values()):
        images += f"; a file for each channel, with names that end in {', '.join(texts)}"
    structures = "\n".join(f"- {value}: {name}" for name, value in task.structures.items())
    return f"""# {task.name}

{about}. Made with {description["made_with"]}, round {description["round"]}.

Structures, by the value in a label map, or by channel:

{structures}

Put images ({images}) into the folder `images` of this bundle. For each image, {found} is written into `masks`:

    python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json --bundle_root .

`--dataset_dir` and `--output_dir` name other folders. Requirements: monai, pytorch-ignite,
fire, {package}. `docs/processing.json` describes pre- and post-processing, which are parts of `models/model.ts`;
`models/model.pt` has the weights alone.
"""


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    atomic_write(path, json.dumps(content, indent=2))
