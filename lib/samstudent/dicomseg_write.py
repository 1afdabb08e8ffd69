"""Masks as a DICOM segmentation that refers to its images: CT and MR series, single slices, and radiographs."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from samstudent import __version__
from samstudent.coding import Code
from samstudent.errors import UserError
from samstudent.formats import decoding
from samstudent.geometry import LPS_TO_RAS, Grid
from samstudent.segnrrd import color
from samstudent.task import Task

MANUFACTURER = "samstudent"
AlgorithmType = Literal["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"]
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
#: What the standard wants to be there, if only empty; highdicom takes it from the images.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class About:
    """Where masks come from.

    Attributes:
        description: what they are, one line, e.g. "Label of task wrist"; the series' description.
        algorithm: who drew them: a human, a human with a model's help, a model alone.
        name: of the algorithm; needed unless a human alone drew them.
        provenance: what made them (student, SAM, recipe), for the algorithm's parameters.
        quality: structure -> what its mask is expected to be worth, 0 to 1.
        creator: who drew or asked for them.
        time: seconds since 1970 of the drawing.
        uids: (series, instance). Sent again with the same, the PACS knows that it has it. None: new ones.
    """

    description: str
    algorithm: AlgorithmType
    name: str = MANUFACTURER
    provenance: Mapping[str, str] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    creator: str = ""
    time: float | None = None
    uids: tuple[str, str] | None = None


def write_seg(
    path: Path,
    masks: NDArray[Any],
    task: Task,
    grid: Grid,
    source: Path,
    about: About,
    only: Sequence[str] | None = None,
) -> Dataset:
    """Write one DICOM SEG with a segment for each structure; structures that overlap stay whole.

    Args:
        path: to be written.
        masks: bool (S, *spatial), canonical.
        task: names, codes and colours.
        grid: the image's.
        source: the image: a DICOM file, or a folder with the files of one series.
        about: see there.
        only: the structures to write; None: all. Empty ones are written as segments without frames.

    Returns:
        The written dataset.

    Raises:
        UserError: the image is no DICOM, or its files do not fit the grid; masks of another shape.
    """
    names = [name for name in task.names if only is None or name in only]
    if not names:
        raise UserError(f"{path}: no structure to write")
    if masks.shape != (len(task.names), *grid.spatial_shape):
        raise UserError(f"{path}: masks of shape {masks.shape}, but the image has {grid.spatial_shape}")
    images = sources_of(source, grid)
    stack = grid.to_file(masks[[task.structures[name] - 1 for name in names]])
    stack = stack.reshape(len(names), len(images), *stack.shape[-2:])
    time = datetime.datetime.fromtimestamp(about.time) if about.time else datetime.datetime.now()
    series, instance = about.uids or (hd.UID(), hd.UID())
    with decoding(source, "the source of a DICOM segmentation"):
        seg = hd.seg.Segmentation(
            source_images=images,
            pixel_array=np.moveaxis(stack, 0, -1).astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_description(i, name, task, about) for i, name in enumerate(names, 1)],
            series_instance_uid=str(series),
            series_number=_series_number(images[0]),
            sop_instance_uid=str(instance),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=f"{MANUFACTURER} {task.name}"[:64],
            software_versions=__version__,
            device_serial_number="1",
            content_description=about.description[:64],
            # A caret: a name of one part, an account perhaps, is meant so.
            content_creator_name=f"{about.creator[:60]}^" if about.creator else None,
            content_label="LABEL" if about.algorithm != "AUTOMATIC" else "PREDICTION",
            # Nothing drawn at all: the standard wants a frame nevertheless.
            omit_empty_frames=bool(stack.any()),
            series_description=about.description[:64],
            content_date=time.date(),
            content_time=time.time(),
        )
    for shared in seg.SharedFunctionalGroupsSequence:
        measures = shared.get("PixelMeasuresSequence")
        if measures and "SliceThickness" not in measures[0]:
            del shared.PixelMeasuresSequence  # without a place in space; readers want all of it or nothing
    seg.SeriesDate, seg.SeriesTime = seg.ContentDate, seg.ContentTime
    seg.save_as(path)
    return seg


def sources_of(source: Path, grid: Grid) -> list[Dataset]:
    """The headers of an image's files in the order of the grid's slices, with what a SEG needs of them."""
    files = [source] if source.is_file() else sorted(p for p in source.iterdir() if p.is_file())
    with decoding(source, "DICOM"):
        images: list[Dataset] = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    count = 1 if len(grid.shape) == 2 else grid.shape[0]
    if len(images) != count:
        raise UserError(f"{source}: {len(images)} DICOM files for an image of {count} slices")
    for file, image in zip(files, images, strict=True):
        if missing := [keyword for keyword in _NEEDED if not image.get(keyword)]:
            raise UserError(f"{file}: has no {', '.join(missing)}, so no segmentation can refer to it")
    if count > 1:
        to_index = np.linalg.inv(grid.affine) @ LPS_TO_RAS
        images.sort(key=lambda image: float((to_index @ [*map(float, image.ImagePositionPatient), 1.0])[2]))
    for image in images:
        for keyword in _MAY_BE_EMPTY:
            if keyword not in image:
                setattr(image, keyword, "")
        if "ImagePositionPatient" not in image and "FrameOfReferenceUID" in image:
            del image.FrameOfReferenceUID  # a radiograph may name one, but it has no place in it
    return images


def _description(number: int, name: str, task: Task, about: About) -> Any:
    code = task.code_of(name)
    drawn_with_help = about.algorithm != "MANUAL"
    rgb = code.rgb or tuple(round(255 * part) for part in color(task.structures[name] - 1))
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=_coded(code),
        algorithm_type=about.algorithm,
        algorithm_identification=_algorithm(name, about) if drawn_with_help else None,
        tracking_uid=hd.UID(),
        tracking_id=f"{task.name}: {name}"[:64],
        display_color=hd.color.CIELabColor.from_rgb(*rgb),
    )
    if name in about.quality:
        segment.SegmentDescription = f"quality {about.quality[name]:.3f}"
    if code.side:
        side = codes.SCT.Left if code.side == "left" else codes.SCT.Right
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            hd.sr.CodedConcept(side.value, side.scheme_designator, side.meaning)
        ]
    return segment


def _coded(code: Code) -> Any:
    return hd.sr.CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def _algorithm(name: str, about: About) -> Any:
    parameters = {key: str(value) for key, value in about.provenance.items() if value}
    if name in about.quality:
        parameters["quality"] = f"{about.quality[name]:.4f}"
    return hd.AlgorithmIdentificationSequence(
        name=about.name[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
        source=MANUFACTURER,
        parameters=parameters or None,
    )


def _series_number(image: Dataset) -> int:
    """Behind the image's own series in a viewer's list."""
    return min(int(image.get("SeriesNumber") or 0) + 1000, 2**31 - 1)
