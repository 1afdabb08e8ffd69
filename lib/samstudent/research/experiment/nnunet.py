"""nnU-Net (Isensee et al., Nature Methods 18, 2021) as one of the methods: its raw folder, commands, predictions.

nnU-Net plans and trains by its own rules, a thousand epochs of 250 steps with its default trainer, so it is a reference
and not a method of equal steps. It comes with the extra ``nnunetv2`` and needs a GPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import UserError
from samstudent.exchange.regions import RegionValues
from samstudent.imaging.case import for_sam, for_student
from samstudent.research.cases import FolderCases
from samstudent.util.files import atomic_path

#: Folder of its predictions within the job's.
PREDICTIONS = "predictions"
_DATASET = 777
_NAME = f"Dataset{_DATASET}_samstudent"
_COMMANDS = ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict")


def require() -> None:
    """Raises UserError if nnU-Net is not installed."""
    if missing := [command for command in _COMMANDS if shutil.which(command) is None]:
        raise UserError(
            f"method nnunet: {missing[0]} is not installed; install it by pip install '.[nnunetv2]' in the checkout"
        )


def export(cases: FolderCases, train: Sequence[str], test: Sequence[str], raw: Path) -> Path:
    """Write cases in nnU-Net's raw format.

    2D images become 8-bit PNG as in SAM's input (grey if the student's is grey), volumes NIfTI with their spacing.
    Overlapping structures become regions: each combination in the labels has its own value.

    Args:
        cases: prepared cases.
        train, test: case ids.
        raw: folder of ``nnUNet_raw``; the dataset is a folder in it.

    Returns:
        The dataset's folder.

    Raises:
        UserError: more than 255 combinations of structures.
    """
    task, folder = cases.task, raw / _NAME
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    regions = RegionValues(len(task.names))
    ending = ".png" if task.dimension == 2 else ".nii.gz"
    for case in train:
        label = cases.truth(case)
        assert label is not None
        # nnU-Net's labels cannot mark a single structure as not annotated; it is trained as absent.
        truth = label.masks
        _write_image(cases, case, folder / "imagesTr", ending)
        values = regions.encode(truth)
        if regions.highest > 255:
            raise UserError("method nnunet: more than 255 combinations of overlapping structures")
        _write_array(values.astype(np.uint8), folder / "labelsTr" / f"{case}{ending}", cases.image(case).grid.spacing)
    for case in test:
        _write_image(cases, case, folder / "imagesTs", ending)
    content: dict[str, Any] = {
        "channel_names": {str(i): name for i, name in enumerate(_channels(cases))},
        "numTraining": len(train),
        "file_ending": ending,
    }
    if regions.overlaps:
        content["labels"] = {"background": 0} | dict(zip(task.names, regions.regions(), strict=True))
        content["regions_class_order"] = list(range(1, len(task.names) + 1))
    else:
        content["labels"] = {"background": 0} | task.structures
    (folder / "dataset.json").write_text(json.dumps(content, indent=1))
    return folder


def run(cases: FolderCases, train: Sequence[str], test: Sequence[str], seed: int, folder: Path) -> None:
    """Train on ``train`` and write the masks of ``test`` to ``folder/predictions``.

    The seed does nothing but name the run: nnU-Net takes none.

    Raises:
        UserError: nnU-Net is not installed, or one of its commands fails.
    """
    require()
    paths = {name: folder / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    dataset = export(cases, train, test, paths["nnUNet_raw"])
    configuration = "2d" if cases.task.dimension == 2 else "3d_fullres"
    number, environment = str(_DATASET), os.environ | {name: str(path) for name, path in paths.items()}
    common = ["-d", number, "-c", configuration, "-f", "all"]
    for command in (
        [_COMMANDS[0], "-d", number, "-c", configuration],
        [_COMMANDS[1], number, configuration, "all", "--c"],
        [_COMMANDS[2], "-i", str(dataset / "imagesTs"), "-o", str(folder / "out"), *common, "--save_probabilities"],
    ):
        done = subprocess.run(command, env=environment, check=False)
        if done.returncode:
            raise UserError(
                f"method nnunet: {' '.join(command)} ended with {done.returncode}; its output is in the log"
            )
    for case in test:
        keep_prediction(folder / "out" / f"{case}.npz", folder / PREDICTIONS / f"{case}.npz", len(cases.task.names))


def keep_prediction(source: Path, target: Path, structures: int) -> None:
    """From the probabilities that nnU-Net saved, (channels, z, y, x), to masks of the structures, as bits.

    There is a channel for each region, or (one more) for the background and each structure.
    """
    with np.load(source) as content:
        probabilities = content["probabilities"]
    if len(probabilities) == structures:
        masks = probabilities >= 0.5
    else:
        values = np.arange(1, structures + 1).reshape(-1, *(1,) * (probabilities.ndim - 1))
        masks = probabilities.argmax(0) == values
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.savez(file, masks=np.packbits(masks))


def prediction(folder: Path, case: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Masks bool (S, *spatial) that ``keep_prediction`` left."""
    with np.load(folder / f"{case}.npz") as content:
        return np.unpackbits(content["masks"], count=int(np.prod(shape))).reshape(shape).astype(bool)


def _channels(cases: FolderCases) -> list[str]:
    if cases.task.image.sequences:
        return list(cases.task.image.sequences)
    return ["R", "G", "B"] if cases.task.dimension == 2 and cases.task.image.channels == 3 else ["image"]


def _write_image(cases: FolderCases, case: str, folder: Path, ending: str) -> None:
    image = cases.image(case)
    if cases.task.image.sequences:
        for index, channel in enumerate(for_student(image, cases.task.image)):
            values = channel if cases.task.dimension == 3 else (channel * 255).round().astype(np.uint8)
            _write_array(values, folder / f"{case}_{index:04}{ending}", image.grid.spacing)
        return
    if cases.task.dimension == 3:
        _write_array(image.pixels[0], folder / f"{case}_0000{ending}", image.grid.spacing)
        return
    seen = for_sam(image, cases.task.image)
    grey = cases.task.image.channels == 1
    Image.fromarray(seen.mean(-1).round().astype(np.uint8) if grey else seen).save(folder / f"{case}_0000{ending}")


def _write_array(array: NDArray[Any], path: Path, spacing: Sequence[float]) -> None:
    if array.ndim == 2:
        Image.fromarray(array).save(path)
        return
    affine = np.diag([*list(spacing)[::-1], 1.0])
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)  # type: ignore[no-untyped-call]
