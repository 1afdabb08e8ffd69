"""Image files as arrays with their geometry, exactly as stored; ``images`` and ``labels`` make something of the values.

The format is told from the file's first bytes, its name is not trusted. Sizes are checked in the header, before pixels
are decoded, so that a small file which claims to be huge costs nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from samstudent.bounds import check_holds, check_nifti_header, check_size
from samstudent.errors import NotFound, UserError
from samstudent.geometry import LPS_TO_RAS

EXTENSIONS = [".nii.gz", ".nii", ".nrrd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm"]
_FORMATS = "PNG, JPEG, TIFF, DICOM, NIfTI or NRRD"


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file holds.

    Attributes:
        pixels: (*shape) or (*shape, channels), slowest axis first, the file's own data type where it can be.
        shape: (j, i) or (k, j, i).
        affine: float64 (4, 4), file index (i, j, k) -> RAS mm.
        has_geometry: False where the affine is only an assumption (PNG, JPEG, TIFF, NIfTI without a coded transform).
        nifti: header, where the file is NIfTI.
        window: (low, high), the VOI window of a DICOM file.
        metadata: the fields of a NRRD header.
        orientation: the tag of a PNG, JPEG or TIFF, 1 to 8; ``pixels`` are turned already.
    """

    pixels: NDArray[Any]
    shape: tuple[int, ...]
    affine: NDArray[Any]
    has_geometry: bool = True
    nifti: Any = None
    window: tuple[float, float] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    orientation: int = 1


def kind_of(path: Path) -> str:
    """The format by the first bytes: png, jpeg, tiff, dicom, nrrd or nifti.

    Raises:
        NotFound: there is no such file.
        UserError: the file is empty or of no known format.
    """
    if not path.is_file():
        raise NotFound(f"{path}: there is no such file")
    with path.open("rb") as file:
        head = file.read(400)
    if not head:
        raise UserError(f"{path}: the file is empty (0 bytes)")
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith(b"NRRD"):
        return "nrrd"
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return "nifti"
    raise UserError(f"{path}: not an image that can be read, or corrupt; expected {_FORMATS}")


@contextmanager
def decoding(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever a library raises, on a damaged file it may be anything, into a UserError with the file's name."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].removeprefix("sitk::ERROR: ")
        raise UserError(f"{path}: cannot be read as {kind} (truncated, damaged or not supported): {reason}") from error


def read_nifti(path: Path) -> Stored:
    """NIfTI through nibabel, which keeps sheared affines and refuses truncated files."""
    check_nifti_header(path)
    with decoding(path, "NIfTI"):
        image: Any = nibabel.load(path)
        shape = tuple(int(n) for n in image.shape)
        stored = image.get_data_dtype()
        if stored.kind == "c":
            raise UserError(f"{path}: holds complex numbers; expected their magnitude")
        check_size(path, shape, bytes_each=stored.itemsize)
        check_holds(path, math.prod(shape) * stored.itemsize, packed=path.name.lower().endswith(".gz"))
        pixels = np.asanyarray(image.dataobj)
    if pixels.dtype.names:  # RGB24 and RGBA32 are structured types.
        pixels = np.stack([pixels[name] for name in pixels.dtype.names], axis=-1)
        spatial, channels = shape, pixels.shape[-1:]
    elif len(shape) == 5 and shape[3] == 1 and shape[4] in (3, 4):  # How ITK stores colour as a vector.
        spatial, channels = shape[:3], shape[4:]
    else:
        spatial, channels = shape, ()
    while len(spatial) > 3 and spatial[-1] == 1:
        spatial = spatial[:-1]
    if len(spatial) not in (2, 3):
        raise UserError(f"{path}: has {len(spatial)} axes {spatial}; expected one image or one volume")
    pixels = pixels.reshape(*spatial, *channels)
    axes = list(range(len(spatial)))[::-1] + list(range(len(spatial), pixels.ndim))
    coded = int(image.header.get("sform_code", 0)) or int(image.header.get("qform_code", 0)) if _codes(image) else 0
    header = image.header.copy() if _codes(image) else None
    return Stored(pixels.transpose(axes), spatial[::-1], np.asarray(image.affine), bool(coded), header)


def _codes(image: Any) -> bool:
    """Whether the header is NIfTI's; a .nii may hold the older Analyze format, which knows no transforms."""
    return isinstance(image.header, nibabel.Nifti1Header)


def read_nrrd(path: Path) -> Stored:
    """NRRD through ITK. The layers of a .seg.nrrd come as channels.

    Raises:
        UserError: cannot be read, or its pixels are in another file: a header must not make the server open any path.
    """
    with path.open("rb") as file:
        header, *rest = re.split(rb"\r?\n\r?\n", file.read(1 << 20), maxsplit=1)
    if not rest:  # No pixels follow, or not within what is searched here.
        raise UserError(f"{path}: cannot be read as NRRD: its header has no end")
    if re.search(rb"(?mi)^data ?file\s*:", header):
        raise UserError(f"{path}: its pixels are in another file; save it with an attached header")
    return _read_with_itk(path)


def _read_with_itk(path: Path) -> Stored:
    with decoding(path, "NRRD"):
        reader = itk_reader(path, "NrrdImageIO")
        reader.ReadImageInformation()
        components = reader.GetNumberOfComponents()
        check_size(path, tuple(reader.GetSize()), components)
        # Of an encoding that is packed, or not: then it is only less strict.
        check_holds(path, math.prod(reader.GetSize()) * components, packed=True)
        image = reader.Execute()
        return from_itk(image, path, {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()})


def itk_reader(path: Path, image_io: str) -> Any:
    """A reader that takes the file for this format and no other."""
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
        raise UserError(f"{path}: holds complex numbers; expected their magnitude")
    shape = sizes[:3][::-1]
    pixels = pixels.reshape(*shape, *((image.GetNumberOfComponentsPerPixel(),) if "vector" in _type(image) else ()))
    dimension, axes = len(sizes), len(shape)
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:axes, :axes]
    affine[:axes, :axes] = direction * np.array(image.GetSpacing()[:axes])
    affine[:axes, 3] = image.GetOrigin()[:axes]
    return Stored(pixels, shape, LPS_TO_RAS @ affine, has_geometry, metadata=metadata)


def _type(image: Any) -> str:
    return str(image.GetPixelIDTypeAsString())
