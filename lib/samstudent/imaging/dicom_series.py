"""Selection and order of the files of a DICOM series that form one volume.

A series of a PACS or a CD is rarely a volume alone: it has localizers (scouts), slices sent twice, reports and
presentation states. Files that clearly are no part of the volume are skipped, with a note; an ambiguous series is an
error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from samstudent.errors import UserError
from samstudent.imaging.dicom_header import (
    HEAD_BYTES,
    frames_of,
    is_dicom,
    no_image,
    number,
    numbers,
    read_header,
    text,
    texts,
)
from samstudent.imaging.dicom_heads import are_frames_placed, image_files, is_localizer
from samstudent.imaging.dicom_pixels import check_image, frame_header, read_pixels
from samstudent.imaging.dicom_size_checks import check_dicom
from samstudent.imaging.image_paths import ImagePath
from samstudent.imaging.size_checks import check_size

#: Largest deviation of slices from even spacing, as a share of their distance.
_POSITION_TOLERANCE = 0.1
#: Largest distance in mm of slices at the same position: headers round.
_ONE_PLACE = 0.01
#: Largest difference of the cosines of equal directions.
_ONE_DIRECTION = 1e-3
#: Least size of the main stack for which other files are skipped; it must also be larger than all others together.
_LEAST_STACK = 3
#: Elements that distinguish images at the same position, in the order of trial: echoes, phases, b-values, ...
_DISTINGUISHING = (
    "EchoNumbers", "EchoTime", "EffectiveEchoTime", "AcquisitionNumber", "FrameAcquisitionNumber",
    "TemporalPositionIdentifier", "TemporalPositionIndex", "DiffusionBValue", "TriggerTime",
    "NominalCardiacTriggerDelayTime", "ImageType", "FrameType", "StackID", "AcquisitionTime",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Slice:
    """One image of a series: a file, or a frame of one.

    Attributes:
        path: the file.
        header: all but its pixels.
        position: LPS mm of the first pixel's centre; None: no position.
        orientation: (6,) direction cosines of rows and columns; without an orientation the patient's axes.
        frame: index of the frame in a file of several; None: the file's only image.
    """

    path: Path
    header: Dataset
    position: NDArray[np.float64] | None
    orientation: NDArray[np.float64]
    frame: int | None = None

    @property
    def name(self) -> str:
        """Name for messages."""
        return self.path.name if self.frame is None else f"{self.path.name}, frame {self.frame + 1}"

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.orientation[:3], self.orientation[3:])


@dataclass(frozen=True)
class Series:
    """The files of one image or volume.

    Attributes:
        slices: in ascending order along their normal.
        step: (3,) from slice to slice, LPS mm; None for a single slice.
        notes: skipped files, one sentence each.
    """

    slices: list[Slice]
    step: NDArray[np.float64] | None
    notes: tuple[str, ...] = ()


def open_series(path: Path) -> Series:
    """The slices of an image: one image, the frames of a volume in a file, or the files of a series in a folder.

    Args:
        path: a file, a folder, or a part of one (``image_paths``).

    Raises:
        UserError: as ``check_image`` and ``find_series``; a file whose frames have no positions in space.
    """
    image = ImagePath.of(path)
    if not image.place.is_file():
        return find_series(path)
    slices = read_slices(image.place)
    if image.frame is not None:
        if image.frame >= len(slices):
            raise UserError(f"{path}: has {len(slices)} frames only")
        return Series([slices[image.frame]], None)
    if len(slices) == 1:
        return Series(slices, None)
    if any(one.position is None for one in slices):
        raise UserError(
            f"{path}: a clip of {len(slices)} frames without positions in space, no volume; in a task with dimension: 2"
            " each of its frames is a case"
        )
    return _volume(path, slices, [])


def read_slices(path: Path) -> list[Slice]:
    """Headers of the images of a file.

    Raises:
        UserError: as ``check_image``.
    """
    check_dicom(path)
    header = read_header(path)
    check_image(path, header)
    frames = frames_of(header)
    if frames == 1:
        return [_slice(path, frame_header(path, header, 0), None)]
    slices = [_slice(path, frame_header(path, header, frame), frame) for frame in range(frames)]
    # A position of the file as a whole is not that of each frame.
    return slices if are_frames_placed(header) else [replace(one, position=None) for one in slices]


def _slice(path: Path, header: Dataset, frame: int | None) -> Slice:
    position, cosines = numbers(header, "ImagePositionPatient"), numbers(header, "ImageOrientationPatient")
    orientation = np.array(cosines if len(cosines) == 6 else (1, 0, 0, 0, 1, 0), float)
    lengths = np.linalg.norm(orientation.reshape(2, 3), axis=1)
    if not lengths.all() or abs(np.dot(*(orientation.reshape(2, 3) / lengths[:, None]))) > 0.5:
        orientation, lengths = np.array((1, 0, 0, 0, 1, 0), float), np.ones(2)
    orientation = (orientation.reshape(2, 3) / lengths[:, None]).reshape(6)
    return Slice(path, header, np.array(position) if len(position) == 3 else None, orientation, frame)


def find_series(folder: Path) -> Series:
    """The volume (or the single image) in a folder, or in one series of a folder (``image_paths.series_path``).

    Raises:
        UserError: no image, several series, a file that cannot be read, images that are no volume together, slices that
            are missing, doubled or unevenly spaced.
    """
    found, notes = _images(folder)
    found, passed = _without_localizers(found)
    series = Counter(text(one.header, "SeriesInstanceUID") for one in found)
    if len(series) != 1:
        content = f"{len(series)} series" if series else "no DICOM image"
        raise UserError(f"{folder}: {content} in this folder; expected the files of one series")
    return _volume(folder, found, notes + passed)


def _volume(path: Path, found: list[Slice], notes: list[str]) -> Series:
    """The volume, or the single image, among images of one series. ``path``: for errors."""
    slices, odd = _largest_stack(path, found)
    notes = notes + odd
    check_size(path, (int(slices[0].header.Columns), int(slices[0].header.Rows), len(slices)))
    if len(slices) == 1:
        return Series(slices, None, tuple(notes))
    if any(one.position is None for one in slices):
        raise UserError(f"{path}: {len(slices)} images without positions in space; give each one as a file")
    slices = sorted(slices, key=lambda one: (_height(one), number(one.header, "InstanceNumber", 0)))
    slices, doubled = _one_each(path, slices)
    if len(slices) == 1:
        return Series(slices, None, (*notes, *doubled))
    return Series(slices, _step(path, slices), (*notes, *doubled))


def _images(folder: Path) -> tuple[list[Slice], list[str]]:
    """All DICOM images of a folder, and notes on its other DICOM files."""
    found, notes = [], []
    for path in image_files(folder):
        with path.open("rb") as file:
            if not is_dicom(file.read(HEAD_BYTES)):
                continue
        try:
            check_dicom(path)
            if reason := no_image(read_header(path)):
                notes.append(f"{path.name} is skipped: {reason}")
                continue
            found += read_slices(path)
        except UserError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise UserError(f"{path}: no image of this folder's series, or corrupt: {reason}") from error
    return found, notes


def _without_localizers(found: list[Slice]) -> tuple[list[Slice], list[str]]:
    localizers = [one for one in found if is_localizer(one.header)]
    if not localizers or len(localizers) == len(found):
        return found, []
    names = ", ".join(sorted(one.name for one in localizers)[:3])
    others = [one for one in found if one not in localizers]
    return others, [f"{len(localizers)} localizer images are skipped ({names})"]


def _largest_stack(folder: Path, found: list[Slice]) -> tuple[list[Slice], list[str]]:
    """The largest stack of images of one size and orientation, if it is larger than all others together."""
    stacks: list[list[Slice]] = []
    for one in found:
        stack = next((stack for stack in stacks if _fits(one, stack[0])), None)
        if stack is None:
            stacks.append([one])
        else:
            stack.append(one)
    stacks.sort(key=len, reverse=True)
    largest, others = stacks[0], [one for stack in stacks[1:] for one in stack]
    if not others:
        return largest, []
    if len(largest) < _LEAST_STACK or len(largest) <= len(others):
        sizes = sorted({_size(one) for one in found})
        if len(sizes) > 1:
            raise UserError(f"{folder}: slices of different sizes {sizes}; expected the files of one volume")
        raise UserError(f"{folder}: {len(stacks)} stacks of slices of different directions or distances of pixels")
    first = others[0]
    return largest, [
        f"{len(others)} images of another size or direction than the other {len(largest)} are skipped"
        f" ({first.name}: {_size(first)[0]} x {_size(first)[1]})"
    ]


def _fits(one: Slice, other: Slice) -> bool:
    return (
        _size(one) == _size(other)
        and (one.position is None) == (other.position is None)
        and number(one.header, "SamplesPerPixel", 1) == number(other.header, "SamplesPerPixel", 1)
        and np.allclose(numbers(one.header, "PixelSpacing"), numbers(other.header, "PixelSpacing"), rtol=1e-3)
        and bool(np.abs(one.orientation - other.orientation).max() < _ONE_DIRECTION)
    )


def _size(one: Slice) -> tuple[int, int]:
    return int(one.header.Columns), int(one.header.Rows)


def _height(one: Slice) -> float:
    return float(one.normal @ one.position) if one.position is not None else 0.0


def _one_each(folder: Path, slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """One slice for each position: the first of equal slices, else those of one echo, phase or the like."""
    places = _places(slices)
    if len(places) == len(slices):
        return slices, []
    if all(_equal(place) for place in places):
        doubled = [one for place in places for one in place[1:]]
        return [place[0] for place in places], [f"{len(doubled)} duplicate slices are skipped (e.g. {doubled[0].name})"]
    for keyword in _DISTINGUISHING:
        groups: dict[tuple[str, ...], list[Slice]] = {}
        for one in slices:
            groups.setdefault(tuple(texts(one.header, keyword)), []).append(one)
        if len(groups) > 1 and all(len(_places(group)) == len(group) for group in groups.values()):
            most = max(map(len, groups.values()))
            value, largest = next((value, group) for value, group in groups.items() if len(group) == most)
            if len(largest) == len(places):
                return largest, [
                    f"of {len(groups)} images at each position (by {keyword}) those with {'/'.join(value)}"
                    f" are taken, {len(slices) - len(largest)} are skipped"
                ]
    worst = next(place for place in places if not _equal(place))
    raise UserError(
        f"{folder}: slices are missing, doubled or unevenly spaced; {worst[0].name} and {worst[1].name} have"
        " the same position and differ, and nothing in their headers distinguishes them"
    )


def _places(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices grouped by position; they come in ascending order."""
    places: list[list[Slice]] = []
    for one in slices:
        if places and _distance(one, places[-1][0]) < _ONE_PLACE:
            places[-1].append(one)
        else:
            places.append([one])
    return places


def _distance(one: Slice, other: Slice) -> float:
    """Distance in mm; infinite where one of them has no position."""
    if one.position is None or other.position is None:
        return np.inf
    return float(np.linalg.norm(one.position - other.position))


def _equal(place: Sequence[Slice]) -> bool:
    first = None
    for one in place if len(place) > 1 else ():
        values = read_pixels(one.path, one.frame).values
        if first is not None and not np.array_equal(first, values):
            return False
        first = values
    return True


def _step(path: Path, slices: Sequence[Slice]) -> NDArray[np.float64]:
    """The vector from slice to slice in LPS mm.

    Raises:
        UserError: the spacing is not even.
    """
    positions = np.array([one.position for one in slices])
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(slices) - 1)
    expected = positions[0] + np.arange(len(slices))[:, None] * step
    off = np.linalg.norm(positions - expected, axis=1)
    if not off.max() <= _POSITION_TOLERANCE * np.linalg.norm(step) or not step.any():
        raise UserError(f"{path}: slices are missing, doubled or unevenly spaced: {_uneven(positions, slices)}")
    return step


def _uneven(positions: NDArray[np.float64], slices: Sequence[Slice]) -> str:
    """Description of the most unusual distance of two slices."""
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    usual = float(np.median(distances))
    worst = int(np.abs(distances - usual).argmax())
    between = f"{slices[worst].name} and {slices[worst + 1].name} are {distances[worst]:.2f} mm apart"
    missing = round(distances[worst] / usual) - 1 if usual > 0 else 0
    if missing > 0 and abs(distances[worst] - (missing + 1) * usual) <= _POSITION_TOLERANCE * usual:
        lacking = "1 slice is" if missing == 1 else f"{missing} slices are"
        return f"{between}, others {usual:.2f} mm: {lacking} missing there; export the series again"
    return f"{between}, others {usual:.2f} mm; export the series again, or resample it to even distances"
