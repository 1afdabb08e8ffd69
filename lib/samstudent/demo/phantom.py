"""Synthetic wrist radiographs with known masks, for the demo and the tests.

Physical model: each bone has an outline and a depth, from which the thickness of its cortical and of its cancellous
bone follows; attenuations add up along the ray (Beer-Lambert), so bones overlap as on a real radiograph; then scatter,
blur, quantum noise, tone curve, collimated field and side marker. No result about quality is based on these images.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt, gaussian_filter

from samstudent.demo.phantom_anatomy import BONES, SKIN, Bone, corners
from samstudent.errors import UserError
from samstudent.util.files import atomic_path, atomic_write
from samstudent.util.progress import Report, StepReport, no_report

FloatArray = NDArray[np.float32]
#: Projection: points x, y in mm, float (n, 2); their z in mm; share of the hand's tilt -> x, y in pixels, float (n, 2).
Pose = Callable[[NDArray[np.float64], float, float], NDArray[np.float64]]

#: Size of the imaged field in mm, (y, x); independent of the number of pixels.
FIELD = (118.0, 69.0)
#: Attenuation per mm at about 55 keV. The one of bone is added to that of the soft tissue that it replaces.
SOFT, COMPACT, SPONGY, PLASTER = 0.021, 0.062, 0.019, 0.030
#: Structures in the order of their label values: only some of the bones, because each structure takes time.
NAMES: list[str] = ["radius", "ulna", "scaphoid", "lunate", "capitate", "metacarpal_3"]
#: Bones that ossify late and are therefore missing on some radiographs of children.
LATE = ("trapezium", "triquetrum", "lunate")


@dataclass(frozen=True)
class Radiograph:
    """Radiograph: image uint16 (y, x), bone is bright; masks bool (S, y, x), projections of the bones, overlapping."""

    image: NDArray[np.uint16]
    masks: NDArray[np.bool_]


def make_radiograph(rng: np.random.Generator, shape: tuple[int, int] = (384, 224)) -> Radiograph:
    """Radiograph of one wrist with random anatomy, position and exposure.

    Args:
        rng: source of all randomness; equal states give equal radiographs.
        shape: number of pixels, (y, x), at least 64 x 64.

    Raises:
        UserError: the shape is smaller.
    """
    if min(shape) < 64:
        raise UserError(f"a phantom needs at least 64 x 64 pixels, not {shape}")
    pixel = max(FIELD[0] / shape[0], FIELD[1] / shape[1])
    side = str(rng.choice(["L", "R"]))
    pose = _random_pose(rng, side, shape, pixel)
    grain = _trabeculae(rng, shape, pixel)
    field = _collimation(rng, shape)

    masks = np.zeros((len(NAMES), *shape), bool)
    missing = LATE[rng.integers(len(LATE))] if rng.random() < 0.12 else None
    mineral = rng.uniform(0.7, 1.15)
    absorbed = np.zeros(shape, np.float32)
    for name, bone in BONES.items():
        inside, absorption = _project(rng, bone, pose, shape, pixel, grain)
        if name == missing:
            continue
        absorbed += np.float32(mineral * rng.uniform(0.85, 1.15)) * absorption
        if name in NAMES:
            masks[NAMES.index(name)] = inside & field
    skin = _filled(pose(_rounded(corners(SKIN)), 0.0, 0.0), shape)
    absorbed += _soft_tissue(rng, skin, pixel)
    return Radiograph(_expose(rng, absorbed + 1.6 * _marker(rng, side, field & ~skin), field, pixel), masks)


def _random_pose(rng: np.random.Generator, side: str, shape: tuple[int, int], pixel: float) -> Pose:
    """Random position of the hand on the detector."""
    mirror = 1.0 if side == "L" else -1.0
    size = rng.uniform(0.84, 1.04)
    tilt, turn, roll = np.deg2rad([rng.normal(0, 7), rng.normal(0, 7), rng.normal(0, 13)])
    centre = np.array([shape[1] / 2, shape[0] * 0.46]) + rng.normal(0, 2.5, 2) / pixel

    def rotated(points: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
        c, s = np.cos(angle), np.sin(angle)
        return points @ np.array([[c, s], [-s, c]])

    def pose(points: NDArray[np.float64], z: float, follows: float) -> NDArray[np.float64]:
        points = rotated(points, follows * tilt)
        # Pronation: points nearer to the palm move sideways on the projection.
        points = points * [np.cos(roll), 1.0] + [z * np.sin(roll), 0.0]
        return rotated(points * [mirror, 1.0], turn) * size / pixel + centre

    return pose


def _project(
    rng: np.random.Generator,
    bone: Bone,
    pose: Pose,
    shape: tuple[int, int],
    pixel: float,
    grain: FloatArray,
) -> tuple[NDArray[np.bool_], FloatArray]:
    """Projection of a bone: its mask, bool (y, x), and its attenuation, float32 (y, x)."""
    points = _individual(rng, bone.points, long=bone.shaft_shell > 0)
    outline = pose(_rounded(points), bone.z, bone.follows)
    inside = _filled(outline, shape)
    absorption = np.zeros(shape, np.float32)
    low = np.maximum(np.floor(outline.min(0)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(outline.max(0)).astype(int) + 3, shape[::-1])
    if not inside.any():
        return inside, absorption
    box = (slice(low[1], high[1]), slice(low[0], high[0]))
    # Padding by replication: a shaft continues beyond the edge of the image.
    cut = np.pad(inside[box], 2, mode="edge") if bone.shaft_shell else np.pad(inside[box], 2)
    depth_in = (distance_transform_edt(cut)[2:-2, 2:-2] - 0.5).clip(0) * pixel

    radius: float | FloatArray = min(bone.depth / 2, float(depth_in.max()))
    shell: float | FloatArray = bone.shell
    hollow: float | FloatArray = 1.0
    if bone.shaft_shell:
        shaft = _shaft(bone, pose, box)
        radius = radius + shaft * (bone.shaft_width / 2 - radius)
        shell = bone.shell + shaft * (bone.shaft_shell - bone.shell)
        hollow = 1 - 0.75 * shaft
    outer = _inflated(depth_in, radius)
    inner = np.minimum(_inflated(depth_in - shell, radius - shell), outer)
    absorption[box] = COMPACT * (outer - inner) + SPONGY * inner * hollow * grain[box]
    return inside, absorption


def _individual(rng: np.random.Generator, points: NDArray[np.float64], long: bool) -> NDArray[np.float64]:
    """Random variant of a bone: shifted, rotated, scaled and, unless it is a long bone, slightly deformed."""
    centre = points[np.abs(points[:, 1]) < 60].mean(0)
    offset = points - centre
    if long:
        offset = offset * [rng.uniform(0.9, 1.1), 1.0]
        angle = rng.normal(0, 0.02)
    else:
        theta = np.arctan2(offset[:, 1], offset[:, 0])
        waves = sum(rng.normal(0, 0.05 / k**0.5) * np.cos(k * theta + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
        offset = offset * rng.uniform(0.92, 1.08) * (1 + np.asarray(waves)[:, None])
        angle = rng.normal(0, 0.1)
    c, s = np.cos(angle), np.sin(angle)
    return centre + offset @ np.array([[c, s], [-s, c]]) + rng.normal(0, 0.55, 2)


def _rounded(points: NDArray[np.float64], times: int = 3) -> NDArray[np.float64]:
    """Smoothed outline of a polygon (Chaikin's corner cutting), points float (n * 2**times, 2)."""
    for _ in range(times):
        after = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], 1).reshape(-1, 2)
    return points


def _filled(outline: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask bool (y, x) of the pixels inside a closed line of points (x, y)."""
    canvas = Image.new("1", shape[::-1])
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in outline], fill=1)
    return np.array(canvas)


def _inflated(depth_in: FloatArray, radius: float | FloatArray) -> FloatArray:
    """Thickness in mm of a body with a round edge, constant farther than ``radius`` from it.

    Args:
        depth_in: distance to the outline in mm, float32 (y, x).
        radius: radius of the edge in mm, a number or float32 (y, x).
    """
    radius = np.maximum(radius, 0.1)
    rim = radius - np.clip(depth_in, 0, radius)
    return np.asarray(2 * np.sqrt(np.maximum(radius**2 - rim**2, 0)), np.float32)


def _shaft(bone: Bone, pose: Pose, box: tuple[slice, slice]) -> FloatArray:
    """Weight of the shaft of a long bone for the pixels of ``box``: 0 at the joint end, 1 in the shaft."""
    begin = np.array(bone.shaft_from)
    along = bone.points[np.argmax(np.abs(bone.points[:, 1]))] - begin
    start, ahead = pose(np.stack([begin, begin + along / np.hypot(*along)]), bone.z, bone.follows)
    unit = ahead - start
    y, x = np.mgrid[box]
    way = ((x - start[0]) * unit[0] + (y - start[1]) * unit[1]) / (unit @ unit)
    return np.asarray(1 / (1 + np.exp(-way / 3.5)), np.float32)


def _trabeculae(rng: np.random.Generator, shape: tuple[int, int], pixel: float) -> FloatArray:
    """Texture of cancellous bone, mean 1: fine struts, mostly along the limb."""
    noise = rng.standard_normal((2, *shape), np.float32)
    struts = gaussian_filter(noise[0], (1.1 / pixel, 0.28 / pixel)) * 2.2
    mesh = gaussian_filter(noise[1], 0.3 / pixel)
    texture = struts / struts.std() + 0.8 * mesh / mesh.std()
    return np.asarray(np.clip(1 + rng.uniform(0.12, 0.24) * texture, 0.2, 2), np.float32)


def _clouds(rng: np.random.Generator, shape: tuple[int, int], cells: int = 6) -> FloatArray:
    """Smooth random field between about -1 and 1."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC), np.float32)


def _soft_tissue(rng: np.random.Generator, skin: NDArray[np.bool_], pixel: float) -> FloatArray:
    """Attenuation of muscle, fat and, on some radiographs, a plaster cast."""
    shape = skin.shape[0], skin.shape[1]
    depth_in = distance_transform_edt(np.pad(skin, 8, mode="edge"))[8:-8, 8:-8] * pixel
    absorbed = SOFT * _inflated(depth_in, rng.uniform(13, 20)) * (1 + 0.09 * _clouds(rng, shape))
    if rng.random() < 0.2:
        outside = distance_transform_edt(~skin) * pixel
        wall, gap = rng.uniform(2, 3.5), rng.uniform(0.5, 3)
        surface = np.where(skin, depth_in + gap, gap - outside)
        tube = _inflated(surface + wall, 24.0) - _inflated(surface, 24.0 - wall)
        weave = gaussian_filter(rng.standard_normal(shape, np.float32), (0.5 / pixel, 1.6 / pixel))
        absorbed += PLASTER * tube * np.clip(1 + 0.25 * weave / weave.std(), 0.2, 2)
    return np.asarray(absorbed, np.float32)


def _collimation(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask of the exposed part of the detector: a slightly rotated rectangle."""
    margins = rng.uniform(-0.06, 0.05, 4)
    top, bottom = shape[0] * max(margins[0], -0.02), shape[0] * (1 - max(margins[1], -0.02))
    left, right = shape[1] * margins[2], shape[1] * (1 - margins[3])
    slant = np.tan(rng.normal(0, 0.03))
    y, x = np.mgrid[: shape[0], : shape[1]]
    u, v = x + slant * (y - shape[0] / 2), y - slant * (x - shape[1] / 2)
    return np.asarray((u > left) & (u < right) & (v > top) & (v < bottom))


def _expose(
    rng: np.random.Generator, absorbed: FloatArray, field: NDArray[np.bool_], pixel: float
) -> NDArray[np.uint16]:
    """Image from the attenuation: beam, scatter, blur, noise, tone curve."""
    shape = absorbed.shape[0], absorbed.shape[1]
    beam = field * (1 + 0.12 * _clouds(rng, shape, 2)) + 0.004
    primary = beam * np.exp(-absorbed)
    scatter = rng.uniform(0.05, 0.22) * gaussian_filter(primary, 9 / pixel)
    blurred = gaussian_filter(primary + scatter, rng.uniform(0.12, 0.26) / pixel)
    dose = 10 ** rng.uniform(3.1, 4.0)  # photons per pixel in the open beam
    electronic = rng.normal(0, 0.002, shape)
    counted = np.maximum(rng.poisson(blurred * dose) / dose + electronic, 0.003)
    density = -np.log(counted)

    inside = density[field]
    dark, bright = np.percentile(inside, [1, 99.7])
    tone = np.clip((density - dark) / (bright - dark), 0, 1.25) ** rng.uniform(0.75, 1.35) * field
    return np.asarray(np.clip(tone * rng.uniform(30000, 50000) + rng.uniform(0, 2500), 0, 65535), np.uint16)


def _marker(rng: np.random.Generator, side: str, free: NDArray[np.bool_]) -> FloatArray:
    """Lead letter of the side (L or R) at a random free place beside the limb, 1 inside the letter."""
    height = max(12, round(free.shape[0] * rng.uniform(0.055, 0.085)))
    canvas = Image.new("L", (free.shape[1], free.shape[0]))
    room = np.argwhere(distance_transform_edt(np.pad(free, 1))[1:-1, 1:-1] > height * 0.45)
    if len(room):
        y, x = room[rng.integers(len(room))]
        font = ImageFont.load_default(height)
        ImageDraw.Draw(canvas).text((float(x), float(y)), side, 255, font, anchor="mm", stroke_width=1)
    return np.asarray(canvas, np.float32) / 255


def make_study(
    folder: str | Path,
    cases: int,
    seed: int = 0,
    shape: tuple[int, int] = (384, 224),
    holdout: int | None = None,
    report: Report = no_report,
) -> list[str]:
    """Write a labelled folder of synthetic radiographs.

    Files: ``images/<id>.png`` (16 bit grey), ``labels/<id>.seg.nrrd`` (true masks; the server of the demo does not see
    them) and ``split.csv`` (id, split, train_order): some cases ``val``, the others ``train`` in random order. Existing
    files of these names are replaced.

    Args:
        folder: destination; created if it is missing.
        cases: number of cases including the hold-out, at least 2.
        seed: random seed; a case's image depends on it and on the case's number, not on the number of cases.
        shape: number of pixels of each image, (y, x).
        holdout: number of ``val`` cases; None: a fifth, at least one.
        report: receiver of the progress.

    Returns:
        Ids of the cases.

    Raises:
        UserError: ``cases`` or ``holdout`` is out of range.
    """
    # Here, not above: drawing needs no label writer.
    from samstudent.imaging.case import read_image
    from samstudent.imaging.label_writing import write_masks
    from samstudent.task import load_task

    if cases < 2:
        raise UserError(f"a study needs at least 2 cases, not {cases}")
    holdout = max(1, round(0.2 * cases)) if holdout is None else holdout
    if not 0 < holdout < cases:
        raise UserError(f"the hold-out needs 1 to {cases - 1} of the {cases} cases, not {holdout}")
    folder = Path(folder)
    phantom_task = load_task("phantom")
    ids = [f"phantom_{number:03d}" for number in range(1, cases + 1)]
    drawn = StepReport(report, "drawing synthetic radiographs")
    for number, case in enumerate(ids):
        film = make_radiograph(np.random.default_rng((seed, number)), shape)
        png = io.BytesIO()
        Image.fromarray(film.image).save(png, "PNG")
        path = folder / "images" / f"{case}.png"
        atomic_write(path, png.getvalue())
        grid = read_image(path).grid
        write_masks(folder / "labels" / f"{case}.seg.nrrd", film.masks, phantom_task, grid)
        drawn(number + 1, cases)
    _write_split(folder / "split.csv", ids, holdout, seed)
    return ids


def _write_split(path: Path, ids: list[str], holdout: int, seed: int) -> None:
    """Write a ``split.csv`` with the columns of the real data sets; ``train_order`` is empty for ``val``."""
    shuffled = np.random.default_rng((seed, len(ids))).permutation(ids).tolist()
    held = set(shuffled[:holdout])
    order = {case: place for place, case in enumerate(shuffled[holdout:])}
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "split", "train_order"])
        writer.writerows([case, "val" if case in held else "train", order.get(case, "")] for case in ids)
