"""PNG pictures: cases with outlines of masks and prompts in panels side by side; reliability of quality estimates."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from samstudent.errors import UserError

Colour = tuple[float, float, float]
#: Prompts of each structure: its name, and ``Prompt.as_json()`` of one or more stages.
Prompts = Mapping[str, Sequence[Mapping[str, Any]]]
#: More names than this would make the legend larger than the picture.
_LEGEND_LIMIT = 20


@dataclass(frozen=True)
class Panel:
    """Panel of a case: title, and overlay of the image. masks: bool (S, *spatial) or None."""

    title: str
    masks: NDArray[Any] | None = None
    prompts: Prompts | None = None


def colours(count: int) -> list[Colour]:
    """As many colours that differ, bright enough for a dark image; structure i has the same one in every picture."""
    # Steps of the golden ratio around the circle of hues: neighbours in the list, often neighbours in the body, differ.
    hues = (np.arange(count) * 0.618034 + 0.02) % 1
    rgb = matplotlib.colors.hsv_to_rgb(np.stack([hues, np.full(count, 0.75), np.ones(count)], -1))
    return [(float(r), float(g), float(b)) for r, g, b in rgb]


def case_panels(image: NDArray[Any], panels: Sequence[Panel], names: Sequence[str], *, height: float = 4.2) -> bytes:
    """Draw one case's panels side by side.

    Args:
        image: (*spatial) grey of any range, or uint8 (*spatial, 3), the input of SAM; 2D or 3D. Of a volume the slice
            along z with most foreground in the first panel that has masks is shown.
        panels: panels from left to right.
        names: of the S structures.
        height: of the picture, in inches at 110 dots.

    Returns:
        PNG bytes.
    """
    dimension = image.ndim - (image.shape[-1] == 3 and image.dtype == np.uint8)
    for panel in panels:
        if panel.masks is not None and panel.masks.shape != (len(names), *image.shape[:dimension]):
            raise UserError(
                f"masks of {panel.title!r} are {panel.masks.shape}; for this image and {len(names)} structures they "
                f"must be {(len(names), *image.shape[:dimension])}"
            )
    z = None
    if dimension == 3:
        z = fullest_slice([panel.masks for panel in panels if panel.masks is not None], image.shape[0])
        image = image[z]
    aspect = image.shape[1] / image.shape[0]
    width = max(height * aspect, 1.4)
    figure = Figure(figsize=(width * len(panels), height + 0.7), dpi=110, layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    palette = dict(zip(names, colours(len(names)), strict=True))
    seen: set[str] = set()
    for axes, panel in zip(drawn, panels, strict=True):
        _show(axes, image, panel.title)
        if panel.masks is not None:
            seen |= draw_outlines(axes, panel.masks if z is None else panel.masks[:, z], palette)
        if panel.prompts is not None:
            seen |= draw_prompts(axes, panel.prompts, palette, z)
    _legend(figure, [name for name in names if name in seen], palette, width * len(panels))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="white")
    return stream.getvalue()


def reliability_picture(results: Mapping[str, Mapping[str, Any]], *, height: float = 3.4) -> bytes:
    """Picture of the reliability of Dice estimates: calibration curve, and Dice over the share of accepted masks.

    Args:
        results: results of ``reliability`` by a name for the legend, e.g. "calibrated" and "formula".
        height: of the picture, in inches at 110 dots.

    Returns:
        PNG bytes.
    """
    if not results:
        raise UserError("no reliability to draw")
    figure = Figure(figsize=(2.3 * height, height), dpi=110, layout="constrained")
    curve, coverage = figure.subplots(1, 2)
    curve.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
    for number, (name, result) in enumerate(results.items()):
        colour = f"C{number}"
        bins = result["curve"]
        # Area of the dots: share of the rows.
        sizes = [150 * b["rows"] / sum(b["rows"] for b in bins) + 8 for b in bins]
        x, y = [b["estimated"] for b in bins], [b["true"] for b in bins]
        curve.plot(x, y, color=colour, linewidth=1)
        curve.scatter(x, y, s=sizes, color=colour, label=f"{name}: error {result['calibration_error']:.3f}")
        share = [100 * point["share"] for point in result["coverage"]]
        coverage.plot(share, [p["dice"] for p in result["coverage"]], color=colour, marker="o", ms=4, label=name)
        coverage.plot(share, [p["estimated"] for p in result["coverage"]], color=colour, linestyle="--", linewidth=1)
    curve.set(xlabel="estimated Dice", ylabel="true Dice", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    coverage.set(xlabel="best-estimated masks kept (%)", ylabel="mean Dice (dashed: estimated)", xlim=(0, 105))
    for axes in (curve, coverage):
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="white")
    return stream.getvalue()


def best_median_worst(scores: Mapping[str, float]) -> dict[str, str]:
    """Cases to show: ``{"best": case, "median": case, "worst": case}`` by score, nan left out.

    With fewer than three cases those that there are, best first.
    """
    ranked = sorted((case for case, score in scores.items() if not math.isnan(score)), key=lambda c: (-scores[c], c))
    if len(ranked) < 3:
        return dict(zip(("best", "worst"), ranked, strict=False))
    return {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}


def fullest_slice(stacks: Sequence[NDArray[Any]], depth: int) -> int:
    """The z at which the first stack that has any foreground has most of it; the middle of ``depth`` if none has."""
    for masks in stacks:
        area = masks.any(0).sum((1, 2))
        if area.any():
            return int(area.argmax())
    return depth // 2


def draw_outlines(axes: Axes, masks: NDArray[Any], palette: Mapping[str, Colour]) -> set[str]:
    """Outline masks, bool (S, y, x), in their structures' colours; the names of those that are there."""
    drawn = set()
    for (name, colour), mask in zip(palette.items(), masks, strict=True):
        if mask.any():
            # A frame of zeros: where a structure leaves the image its outline closes along the edge.
            level = np.pad(mask.astype(float), 1)
            y, x = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
            axes.contour(x, y, level, levels=[0.5], colors=[colour], linewidths=1.1)
            drawn.add(name)
    return drawn


def draw_prompts(axes: Axes, prompts: Prompts, palette: Mapping[str, Colour], z: int | None = None) -> set[str]:
    """Draw boxes, positive points (filled) and negative points (crosses); the names of the structures that have any.

    Of prompts with a ``slice`` only those of slice ``z`` are drawn; none that were given along another ``axis``.
    """
    drawn = set()
    for name, stages in prompts.items():
        if name not in palette:
            raise UserError(f"prompts for {name!r}, which is none of the structures {list(palette)}")
        for prompt in stages:
            if z is None or (prompt.get("slice", z) == z and prompt.get("axis", "z") == "z"):
                _draw_prompt(axes, prompt, palette[name])
                drawn.add(name)
    return drawn


def _draw_prompt(axes: Axes, prompt: Mapping[str, Any], colour: Colour) -> None:
    if box := prompt.get("box"):
        x0, y0, x1, y1 = box
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.1))
    if points := prompt.get("positive"):
        x, y = np.transpose(points)
        axes.scatter(x, y, s=26, color=[colour], edgecolors="white", linewidths=0.8, zorder=3)
    if points := prompt.get("negative"):
        x, y = np.transpose(points)
        axes.scatter(x, y, s=14, color=[colour], marker="x", linewidths=0.9, zorder=2)


def _show(axes: Axes, image: NDArray[Any], title: str) -> None:
    axes.imshow(image, cmap="gray", interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
    # Otherwise outlines and prompts at the border would change the view.
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)


def _legend(figure: Figure, names: Sequence[str], palette: Mapping[str, Colour], width: float) -> None:
    if not 0 < len(names) <= _LEGEND_LIMIT:
        return
    handles = [Patch(facecolor="none", edgecolor=palette[name], linewidth=1.6, label=name) for name in names]
    columns = min(len(names), max(2, int(width / 1.35)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
