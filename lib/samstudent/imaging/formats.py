"""Image files as arrays with their geometry, exactly as stored; ``case`` and ``labels`` interpret the values.

The format is detected by the file's first bytes, not by its name. Sizes are checked in the header before pixels are
decoded, so that a small file that announces a huge image costs nothing.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from samstudent.errors import NotFound, UserError
from samstudent.imaging.dicom_header import HEAD_BYTES, is_dicom
from samstudent.imaging.grid import LPS_TO_RAS
from samstudent.imaging.size_checks import check_holds, check_size, is_gzip, unpacked

EXTENSIONS = [".nii.gz", ".nii", ".nrrd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm"]
#: Values of NRRD's ``space`` that ITK converts.
_PATIENT_SPACES = frozenset(
    name
    for long in ("right-anterior-superior", "left-anterior-superior", "left-posterior-superior")
    for name in (long, "".join(word[0] for word in long.split("-")))
)
#: mm per unit of NRRD's ``space units``.
_NRRD_UNITS = {
    "m": 1e3, "meter": 1e3, "metre": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3,
    "microns": 1e-3, "micrometer": 1e-3, "micrometre": 1e-3, "nm": 1e-6,
}  # fmt: skip
_FORMATS = "PNG, JPEG, TIFF, DICOM, NIfTI or NRRD"


@dataclass(frozen=True, eq=False)
class Stored:
    """Content of a file as stored.

    Attributes:
        pixels: (*shape) or (*shape, channels), slowest axis first, in the file's own data type if numpy has it.
        shape: (j, i) or (k, j, i).
        affine: float64 (4, 4), file index (i, j, k) -> RAS mm.
        has_geometry: False: the affine is an assumption (PNG, JPEG, TIFF, NIfTI without a coded transform,
            NRRD without ``space``).
        nifti: header of a NIfTI file.
        window: (low, high), the VOI window of a DICOM file.
        padding: bool (*shape), pixels of a DICOM file without a measured value; None: no such pixels.
        notes: parts of the file that were left out or not read as stored, one sentence each, for users.
        metadata: the fields of a NRRD header.
        orientation: the tag of a PNG, JPEG or TIFF, 1 to 8; ``pixels`` are turned already.
        itk: affine by which ITK, and with it 3D Slicer, places the file; None: the same, or ITK cannot read the file.
        others: further affines by which some reader places the file.
        unplaced: the missing header field of a file without geometry, for messages.
    """

    pixels: NDArray[Any]
    shape: tuple[int, ...]
    affine: NDArray[Any]
    has_geometry: bool = True
    nifti: Any = None
    window: tuple[float, float] | None = None
    padding: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    orientation: int = 1
    itk: NDArray[Any] | None = None
    others: tuple[NDArray[Any], ...] = ()
    unplaced: str = ""

    @property
    def itk_affine(self) -> NDArray[Any]:
        """(4, 4), index (i, j, k) -> RAS mm, as ITK reads it; ``affine`` if ITK cannot read the file."""
        return self.affine if self.itk is None else self.itk


def kind_of(path: Path) -> str:
    """The format by the first bytes: png, jpeg, tiff, dicom, nrrd or nifti.

    Raises:
        NotFound: the file does not exist.
        UserError: the file is empty or of no known format; a NRRD file that is compressed as a whole; Analyze.
    """
    if not path.is_file():
        raise NotFound(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise UserError(f"{path}: the file is empty (0 bytes)")
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head.startswith(b"NRRD"):
        return "nrrd"
    if is_dicom(head):
        return "dicom"
    if is_gzip(path):
        head = _unpacked_head(path)
        if head.startswith(b"NRRD"):
            raise UserError(
                f'{path}: a NRRD file compressed as a whole; decompress it, or save it with "encoding: gzip"'
            )
    if path.name.lower().endswith((".nii", ".nii.gz")) or head[344:347] == b"n+1" or head[4:7] == b"n+2":
        return "nifti"
    if path.suffix.lower() in (".hdr", ".img"):
        raise UserError(f"{path}: Analyze, or NIfTI in two files (.hdr and .img); save it as one .nii or .nii.gz")
    raise UserError(f"{path}: not an image of a known format; expected {_FORMATS}")


def _unpacked_head(path: Path) -> bytes:
    """First bytes of the content of a gzip file; empty if it is damaged."""
    try:
        with unpacked(path) as file:
            return file.read(400)
    except (OSError, EOFError, zlib.error):
        return b""


@contextmanager
def decoding(path: Path, kind: str) -> Iterator[None]:
    """Context that turns any exception of a library, as on damaged files, into a UserError with the file's name."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].removeprefix("sitk::ERROR: ")
        raise UserError(f"{path}: cannot be read as {kind} (truncated, damaged or not supported): {reason}") from error


def read_nrrd(path: Path) -> Stored:
    """NRRD read by ITK. The layers of a .seg.nrrd become channels.

    Without ``space`` a header has at most spacing: the file has no geometry. ITK reads every ``space`` that it cannot
    convert (``space dimension``, ``scanner-xyz``, times) as left-posterior-superior, and any ``space units`` as mm.

    Raises:
        UserError: cannot be read, or its pixels are in another file: a header must not make the server open any path.
    """
    with path.open("rb") as file:
        header, *rest = re.split(rb"\r?\n\r?\n", file.read(1 << 20), maxsplit=1)
    if not rest:  # No pixels follow, or the header is longer than the searched part.
        raise UserError(f"{path}: cannot be read as NRRD: its header has no end")
    fields = _nrrd_fields(header)
    if "datafile" in fields:
        raise UserError(f"{path}: its pixels are in another file; save it with an attached header")
    if fields.get("encoding") in ("bzip2", "bz2"):
        raise UserError(f"{path}: its encoding is bzip2, which ITK and 3D Slicer do not read; save it as gzip or raw")
    in_space = "space" in fields or "spacedimension" in fields
    if in_space and "spacings" in fields:
        raise UserError(f"{path}: has `spacings` beside `space`, which ITK refuses; expected `space directions`")
    stored = _read_with_itk(path)
    if not in_space or "spacedirections" not in fields:
        missing = "space directions" if in_space else "space"
        return replace(stored, has_geometry=False, unplaced=f"its NRRD header has no `{missing}` field")
    millimetres = np.diag([*[_nrrd_unit(fields.get("spaceunits", ""))] * 3, 1.0])
    affine = millimetres @ stored.affine
    # A ``space`` that ITK does not convert may be right-anterior, as with nibabel and pynrrd.
    converted = fields.get("space") in _PATIENT_SPACES
    return replace(stored, affine=affine, itk=stored.affine, others=() if converted else (affine, LPS_TO_RAS @ affine))


def _nrrd_fields(header: bytes) -> dict[str, str]:
    """Fields of a NRRD header, names without spaces: ``data file`` and ``datafile`` are the same field."""
    lines = header.decode("utf-8", "replace").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
    # "key:=value" is a key that NRRD does not define.
    return {re.sub(r"\s", "", k).lower(): v.strip().lower() for k, v in pairs if not v.startswith("=")}


def _nrrd_unit(units: str) -> float:
    """mm per unit of ``space units``, e.g. ``"um" "um" "um"``; 1 if the unit is unknown or axes differ."""
    named = {unit.strip() for unit in re.findall(r'"([^"]*)"', units)}
    return _NRRD_UNITS.get(named.pop(), 1.0) if len(named) == 1 else 1.0


def _read_with_itk(path: Path) -> Stored:
    with decoding(path, "NRRD"):
        reader = itk_reader(path, "NrrdImageIO")
        reader.ReadImageInformation()
        components = reader.GetNumberOfComponents()
        check_size(path, tuple(reader.GetSize()), components)
        # As if compressed: for a raw encoding this is only less strict.
        check_holds(path, math.prod(reader.GetSize()) * components, packed=True)
        image = reader.Execute()
        return from_itk(image, path, {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()})


def itk_reader(path: Path, image_io: str) -> Any:
    """ITK reader of a file, restricted to one format."""
    reader: Any = sitk.ImageFileReader()  # type: ignore[no-untyped-call]
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    return reader


def from_itk(image: Any, path: Path, metadata: dict[str, str], has_geometry: bool = True) -> Stored:
    """A SimpleITK image of two or three axes (a fourth may be a singleton) with its geometry."""
    sizes = tuple(image.GetSize())
    if len(sizes) > 3 and any(size > 1 for size in sizes[3:]):
        raise UserError(f"{path}: has {len(sizes)} axes {sizes}; expected one image or one volume")
    pixels = sitk.GetArrayFromImage(image)
    if np.iscomplexobj(pixels):
        raise UserError(f"{path}: contains complex numbers; expected their magnitude")
    shape = sizes[:3][::-1]
    pixels = pixels.reshape(*shape, *((image.GetNumberOfComponentsPerPixel(),) if "vector" in _type(image) else ()))
    return Stored(pixels, shape, itk_affine(image), has_geometry, metadata=metadata)


def itk_affine(image: Any) -> NDArray[Any]:
    """(4, 4), index (i, j, k) -> RAS mm, of a SimpleITK image, or of a reader that has read the header."""
    dimension = len(image.GetSize())
    axes = min(dimension, 3)
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:axes, :axes]
    affine[:axes, :axes] = direction * np.array(image.GetSpacing()[:axes])
    affine[:axes, 3] = image.GetOrigin()[:axes]
    return np.asarray(LPS_TO_RAS @ affine)


def _type(image: Any) -> str:
    return str(image.GetPixelIDTypeAsString())
