"""Writer of nnU-Net's raw format (v2): ``imagesTr``, ``labelsTr``, ``imagesTs``, ``labelsTs``, ``dataset.json``.

Format: nnU-Net, documentation/dataset_format.md, region_based_training.md and ignore_label.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.exchange.export_format import with_channels, write_nifti
from samstudent.exchange.nnunet_source import DATASET, IGNORE_LABEL
from samstudent.exchange.regions import RegionValues
from samstudent.exchange.study_cases import StudyCase
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.imaging.label_writing import label_map, write_values
from samstudent.task import Task
from samstudent.util.files import atomic_write

_NAME = re.compile(r"Dataset(\d{3})_.+")
#: Files with integers of up to 16 bits and without geometry; of others nnU-Net gets NIfTI.
_PNG_SOURCES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class NnunetOptions:
    """Options of the format.

    Attributes:
        channel: name of the channel of grey images, by which nnU-Net normalises: ``CT`` by the intensities of all
            cases, others by those of each case; None: ``CT`` for volumes with a fixed window, else ``image``.
        with_png: images as PNG, else as NIfTI.
    """

    channel: str | None = None
    with_png: bool = False


class NnunetExport:
    """One data set.

    Each structure has its value in the task. Where structures share pixels, each combination has a value above, and
    ``dataset.json`` declares the structures as regions of several values (region-based training), so that labels lose
    nothing. Pixels where a structure is unknown get nnU-Net's ``ignore`` label.

    Args:
        output: ``nnUNet_raw``, in which a folder ``Dataset001_<task>`` is created, or this folder itself.
        task: the task.
        options: options of the format.

    Raises:
        UserError: the data set is there already, or the task's names cannot be used.
    """

    def __init__(self, output: Path, task: Task, options: NnunetOptions) -> None:
        self.task, self.options = task, options
        self.folder = _dataset_folder(output, task.name)
        if any(name.lower() == IGNORE_LABEL for name in task.names):
            raise UserError(f"task {task.name}: structure {IGNORE_LABEL!r} has another meaning in nnU-Net; rename it")
        self.ending = ".png" if options.with_png else ".nii.gz"
        self._values = RegionValues(len(task.names))
        #: Labels with unknown pixels, which are written when all values are known: the value to ignore is the highest.
        self._open: list[tuple[StudyCase, Path]] = []
        self._trained = self._combined = 0

    def add(self, case: StudyCase, image: CaseImage, label: LabelledMasks | None) -> None:
        part = "Tr" if label is not None and case.split != "test" else "Ts"
        target = self.folder / f"labels{part}" / f"{case.id}{self.ending}"
        is_open = label is not None and label.unknown is not None
        if label is not None and is_open and self._ignored(label).all():
            raise UserError("a structure is not annotated; where structures overlap, nnU-Net can only ignore all")
        self._write_image(image, self.folder / f"images{part}" / case.id)
        if label is not None:
            values = self._encode(label)
            self._combined += bool((values > len(self.task.names)).any())
            if is_open:
                self._open.append((case, target))
            else:
                self._write_label(target, values, image)
        self._trained += part == "Tr"

    def finish(self) -> list[str]:
        ignore = self._values.highest + 1
        for case, target in self._open:
            image, label = case.read(self.task)
            assert label is not None
            values = np.where(self._ignored(label), np.uint16(ignore), self._encode(label))
            self._write_label(target, values, image)
        labels: dict[str, Any] = {"background": 0}
        content: dict[str, Any] = {
            "channel_names": {str(number): name for number, name in enumerate(self._channels())},
            "labels": labels,
            "numTraining": self._trained,
            "file_ending": self.ending,
            "name": self.task.name,
            "description": self.task.description,
        }
        if self._values.overlaps:
            labels.update(zip(self.task.names, self._values.regions(), strict=True))
            content["regions_class_order"] = list(self.task.structures.values())
        else:
            labels.update(self.task.structures)
        if self._open:
            labels[IGNORE_LABEL] = ignore
        atomic_write(self.folder / DATASET, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return self._remarks()

    def _remarks(self) -> list[str]:
        remarks = [
            f"channels: {', '.join(self._channels())}; change channel_names in {DATASET} if nnU-Net is to normalise "
            "otherwise"
        ]
        if self._values.overlaps:
            pairs = [" and ".join(self.task.names[i] for i in some) for some in self._values.combinations()]
            listed = ", ".join(pairs[:3]) + (" ..." if len(pairs) > 3 else "")
            remarks.append(
                f"labels in which structures share pixels: {self._combined} ({listed}). Each combination has a value "
                "of its own, and the structures are regions. nnU-Net's predictions have one value a pixel; with "
                "--save_probabilities they keep the overlap"
            )
        if self._open:
            remarks.append(
                f"labels with unknown pixels: {len(self._open)}; these have nnU-Net's label {IGNORE_LABEL!r}"
            )
        number = (_NAME.fullmatch(self.folder.name) or [""])[1].lstrip("0")
        return [*remarks, f"next: nnUNet_raw={self.folder.parent} nnUNetv2_plan_and_preprocess -d {number}"]

    def _channels(self) -> list[str]:
        if self.task.image.sequences:
            return list(self.task.image.sequences)
        if self.task.image.channels == 3:
            return ["R", "G", "B"]
        is_ct = self.task.dimension == 3 and self.task.image.intensity == "window"
        return [self.options.channel or ("CT" if is_ct else "image")]

    def _encode(self, label: LabelledMasks) -> NDArray[np.uint16]:
        """Label map; where the task forbids overlap, the smaller structure has a shared pixel."""
        return self._values.encode(label.masks) if self.task.overlap else label_map(label.masks).astype(np.uint16)

    def _ignored(self, label: LabelledMasks) -> NDArray[np.bool_]:
        """Pixels whose structures are not all known."""
        assert label.unknown is not None
        unknown = np.asarray(label.unknown.any(axis=0), dtype=bool)
        return unknown if self.task.overlap else unknown & ~label.masks.any(axis=0)

    def _write_label(self, path: Path, values: NDArray[np.uint16], image: CaseImage) -> None:
        write_values(path, values.astype(np.uint8) if values.max() < 256 else values, image.grid)

    def _write_image(self, image: CaseImage, target: Path) -> None:
        pixels = with_channels(image, self.task)
        if self.options.with_png:
            atomic_write(target.with_name(f"{target.name}_0000.png"), _png(pixels, image.path))
            return
        for channel, values in enumerate(pixels):
            write_nifti(image, values, target.with_name(f"{target.name}_{channel:04}.nii.gz"))


def with_png(cases: list[StudyCase], task: Task) -> bool:
    """Whether the images of a study can be PNG for nnU-Net: 2D, and all files PNG or JPEG."""
    return task.dimension == 2 and all(case.file().suffix.lower() in _PNG_SOURCES for case in cases)


def _png(pixels: NDArray[Any], path: Path | None) -> bytes:
    """PNG of grey values or colours (channels, y, x); rounded, as luminance of colours is no whole number."""
    rounded = np.rint(pixels)
    if len(pixels) == 3 and rounded.max() > 255:
        raise UserError(f"{path}: colours of more than 8 bits; nnU-Net's reader takes PNG of 8 bits")
    values = rounded.astype(np.uint8 if rounded.max() < 256 else np.uint16)
    samples = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(samples)))


def _dataset_folder(output: Path, task: str) -> Path:
    folder = output
    if not _NAME.fullmatch(output.name):
        taken = [int(found[1]) for path in output.glob("Dataset*_*") if (found := _NAME.fullmatch(path.name))]
        if (number := max(taken, default=0) + 1) > 999:
            raise UserError(f"{output}: has Dataset999 already; choose another folder")
        folder = output / f"Dataset{number:03}_{task}"
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; choose another --output")
    return folder
