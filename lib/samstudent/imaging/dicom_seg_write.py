"""Masks as a DICOM segmentation that refers to its images: CT and MR series, single slices, and radiographs."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from samstudent import __version__
from samstudent.errors import UserError
from samstudent.imaging.dicom import geometry_of
from samstudent.imaging.dicom_seg import NOT_ANNOTATED
from samstudent.imaging.dicom_seg_source import as_instances, clean_header, clean_text, refer_to, refer_to_frames
from samstudent.imaging.dicom_series import open_series
from samstudent.imaging.formats import Stored, decoding
from samstudent.imaging.grid import LPS_TO_RAS, Grid
from samstudent.imaging.image_paths import shown_path
from samstudent.imaging.resampling import to_grid
from samstudent.imaging.seg_nrrd import color
from samstudent.task import Task
from samstudent.util.dicom_codes import Code

MANUFACTURER = "samstudent"
AlgorithmType = Literal["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"]
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
#: highdicom refuses images of unknown classes, although it copies the same of all: each is given this class.
_KNOWN_CLASS = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True)
class SegDescription:
    """Content and origin of the masks in a DICOM SEG.

    Attributes:
        title: one line, e.g. "Label of task wrist"; the description of the series.
        algorithm: how the masks were drawn: by a human, by a human with a model, by a model alone.
        name: name of the algorithm; needed unless a human alone drew the masks.
        provenance: student, SAM and recipe, for the parameters of the algorithm.
        quality: structure -> predicted quality of its mask, 0 to 1.
        creator: user who drew or requested the masks.
        time: time of the drawing, seconds since 1970.
        uids: (series, instance). The same UIDs again: the PACS stores the object once. None: new ones.
        structures: structures to write; None: all. Empty ones are written as segments without frames.
        not_annotated: structures without a segment because they were not annotated, not because they are absent.
    """

    title: str
    algorithm: AlgorithmType
    name: str = MANUFACTURER
    provenance: Mapping[str, str] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    creator: str = ""
    time: float | None = None
    uids: tuple[str, str] | None = None
    structures: Sequence[str] | None = None
    not_annotated: Sequence[str] = ()


def write_seg(
    path: Path,
    masks: NDArray[Any],
    task: Task,
    grid: Grid,
    source: Path,
    description: SegDescription,
) -> Dataset:
    """Write one DICOM SEG with a segment for each structure; overlapping structures are kept.

    Args:
        path: file to write.
        masks: bool (S, *spatial), canonical.
        task: names, codes and colours of the structures.
        grid: grid of the image.
        source: the image: a DICOM file, a folder with the files of one series, or several channels, of which the
            segmentation refers to the first.
        description: content and origin of the masks.

    Returns:
        The written dataset.

    Raises:
        UserError: the image is no DICOM, or its files do not fit the grid; masks of another shape.
    """
    names = [name for name in task.names if description.structures is None or name in description.structures]
    if not names:
        raise UserError(f"{path}: no structure to write")
    if masks.shape != (len(task.names), *grid.spatial_shape):
        raise UserError(f"{path}: masks of shape {masks.shape}, but the image has {grid.spatial_shape}")
    masks, grid, source = _of_first_channel(masks, grid, source)
    images = sources_of(source, grid)
    frames = as_instances(images)
    source_class = str(images[0].SOPClassUID)
    for image in images:
        image.SOPClassUID = _KNOWN_CLASS
    stack = grid.to_file(masks[[task.structures[name] - 1 for name in names]])
    stack = stack.reshape(len(names), len(images), *stack.shape[-2:])
    time = datetime.datetime.fromtimestamp(description.time) if description.time else datetime.datetime.now()
    series, instance = description.uids or (hd.UID(), hd.UID())
    with decoding(source, "the source of a DICOM segmentation"):
        seg = hd.seg.Segmentation(
            source_images=images,
            pixel_array=np.moveaxis(stack, 0, -1).astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_segment(i, name, task, description) for i, name in enumerate(names, 1)],
            series_instance_uid=str(series),
            series_number=_series_number(images[0]),
            sop_instance_uid=str(instance),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=clean_text(f"{MANUFACTURER} {task.name}", 64),
            software_versions=__version__,
            device_serial_number="1",
            content_description=clean_text(description.title, 64),
            # A caret marks a name of one part, e.g. an account, as intended.
            content_creator_name=f"{creator}^" if (creator := clean_text(description.creator, 60)) else None,
            content_label="LABEL" if description.algorithm != "AUTOMATIC" else "PREDICTION",
            # Without any pixel: the standard demands a frame nevertheless.
            omit_empty_frames=bool(stack.any()),
            series_description=clean_text(description.title, 64),
            content_date=time.date(),
            content_time=time.time(),
        )
    for shared in seg.SharedFunctionalGroupsSequence:
        measures = shared.get("PixelMeasuresSequence")
        if measures and "SliceThickness" not in measures[0]:
            del shared.PixelMeasuresSequence  # without a position in space; readers need all of it or nothing
    refer_to(seg, _KNOWN_CLASS, source_class)
    refer_to_frames(seg, frames)
    if description.not_annotated:
        seg.ImageComments = f"{NOT_ANNOTATED}{', '.join(description.not_annotated)}"
    if "PatientOrientation" in images[0]:
        seg.PatientOrientation = images[0].PatientOrientation
    seg.SeriesDate, seg.SeriesTime = seg.ContentDate, seg.ContentTime
    seg.save_as(path)
    return seg


def _of_first_channel(masks: NDArray[Any], grid: Grid, source: Path) -> tuple[NDArray[Any], Grid, Path]:
    """Masks, grid and path of the first channel, which has another grid than its case if it is tilted; of other images
    unchanged."""
    first = shown_path(source)
    if first == source:
        return masks, grid, source
    own = Grid.of(*geometry_of(first), path=first)
    drawn = grid.to_file(masks).astype(np.uint8)
    return to_grid(drawn, Stored(drawn[0], grid.shape, grid.affine), own, source).astype(bool), own, first


def sources_of(source: Path, grid: Grid) -> list[Dataset]:
    """Headers of an image's files in the order of the grid's slices, with values that are valid in a SEG."""
    with decoding(source, "DICOM"):
        slices = open_series(source).slices
    count = 1 if len(grid.shape) == 2 else grid.shape[0]
    if len(slices) != count:
        raise UserError(f"{source}: {len(slices)} DICOM files for an image of {count} slices")
    depth = abs(float(slices[0].normal @ (LPS_TO_RAS @ grid.affine)[:3, 2]))
    images = [clean_header(image, count > 1, depth) for image in slices]
    for image, clean in zip(slices, images, strict=True):
        if missing := [keyword for keyword in _NEEDED if not clean.get(keyword)]:
            raise UserError(f"{image.path}: has no {', '.join(missing)}, so no segmentation can refer to it")
    if count > 1:
        to_index = np.linalg.inv(grid.affine) @ LPS_TO_RAS
        images.sort(key=lambda image: float((to_index @ [*map(float, image.ImagePositionPatient), 1.0])[2]))
    return images


def _segment(number: int, name: str, task: Task, description: SegDescription) -> Any:
    code = task.code_of(name)
    drawn_with_help = description.algorithm != "MANUAL"
    rgb = code.rgb or tuple(round(255 * part) for part in color(task.structures[name] - 1))
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=clean_text(name, 64),
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=_coded(code),
        algorithm_type=description.algorithm,
        algorithm_identification=_algorithm(name, description) if drawn_with_help else None,
        tracking_uid=hd.UID(),
        tracking_id=clean_text(f"{task.name}: {name}", 64),
        display_color=hd.color.CIELabColor.from_rgb(*rgb),
    )
    if name in description.quality:
        segment.SegmentDescription = f"quality {description.quality[name]:.3f}"
    if code.side:
        side = codes.SCT.Left if code.side == "left" else codes.SCT.Right
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            hd.sr.CodedConcept(side.value, side.scheme_designator, side.meaning)
        ]
    return segment


def _coded(code: Code) -> Any:
    return hd.sr.CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def _algorithm(name: str, description: SegDescription) -> Any:
    parameters = {key: str(value) for key, value in description.provenance.items() if value}
    if name in description.quality:
        parameters["quality"] = f"{description.quality[name]:.4f}"
    return hd.AlgorithmIdentificationSequence(
        name=clean_text(description.name, 64),
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
        source=MANUFACTURER,
        parameters=parameters or None,
    )


def _series_number(image: Dataset) -> int:
    """Number of the SEG's series, after the image's own in a viewer's list."""
    return min(int(image.SeriesNumber) + 1000, 2**31 - 1)
