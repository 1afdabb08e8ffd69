"""Figures of docs/images from what ``samstudent experiment`` left in its output folder. They hold no image of
../shared/data.

    python benchmarks/figures.py curves NAME OUTPUT
    python benchmarks/figures.py quality NAME LEGEND=OUTPUT/work/trusted-KEY/labels.json[,OTHER-SEED...] ...
    python benchmarks/figures.py trust NAME OUTPUT CASE

``NAME-curves.png``: Dice over the number of labels for each method, of all that was measured in the folder.
``NAME-quality.png``: how well the Dice of pseudo labels was estimated.
``NAME-trust.png``: how the pseudo label of an unlabelled case came about in the last round of ``ours``; for drawn films
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from samstudent.imaging.case import for_sam
from samstudent.metrics import dice_where_known, mean_of
from samstudent.pseudolabels.produce import on_image
from samstudent.pseudolabels.quality_model import reliability
from samstudent.research.experiment import ours, summary, work
from samstudent.research.experiment.plan import Setting
from samstudent.research.experiment.report import learning_curves
from samstudent.research.pictures import Panel, case_panels, reliability_picture
from samstudent.sam.prompts import window_of
from samstudent.sam.refine import refine
from samstudent.sam.working import enlarged

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def curves(name: str, output: str) -> None:
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(output, "results").glob("*.json"))]
    (IMAGES / f"{name}-curves.png").write_bytes(learning_curves(summary.table(results)))


def quality(name: str, *files: str) -> None:
    found = {}
    for legend, paths in (file.split("=", 1) for file in files):
        rows = [row for path in paths.split(",") for row in json.loads(Path(path).read_text(encoding="utf-8"))["rows"]]
        known = [row for row in rows if row["quality"] is not None and row["refined"] is not None]
        found[legend] = reliability([row["quality"] for row in known], [row["refined"] for row in known])
    (IMAGES / f"{name}-quality.png").write_bytes(reliability_picture(found))


def trust(name: str, output: str, case: str) -> None:
    plan = json.loads(Path(output, "plan.json").read_text(encoding="utf-8"))
    setting, jobs = Setting.from_json(plan["setting"]), plan["jobs"]
    made = [job for job in jobs.values() if job["kind"] == "trusted" and case in job["params"]["ids"]]
    if not made:
        sys.exit(f"{output}: {case} is none of the cases that ours labelled")
    job = max(made, key=lambda job: "earlier" in job["needs"])  # which the second round has
    folders = {need: setting.work_folder(jobs[key]["kind"], key) for need, key in job["needs"].items()}
    params = job["params"]
    backend, cache = work.backend_of(params), work.cache_of(setting)
    labeller = ours.Labeller(work.task_of(setting, params), setting.store, params, folders, backend, cache)
    image, truth = setting.store.known_case(case)
    label = labeller.label(image)
    full, seen = on_image(label, image), for_sam(image, setting.task.image)
    probabilities = np.stack([enlarged(plane, seen.shape[:2])[0] for plane in label.probabilities])
    plain = refine(probabilities, seen, backend, setting.task, cache).masks

    def told(what: str, masks: np.ndarray) -> Panel:
        return Panel(f"{what}: Dice {mean_of(dice_where_known(truth, masks)):.2f}", masks)

    there = [s for s in label.structures if s.status != "absent"]
    accepted = [s.quality for s in there if s.status == "accepted"]
    chosen = f"{len(accepted)} of {len(there)} accepted, estimated Dice {np.mean(accepted):.2f}"
    panels = [
        Panel("the film"),
        Panel("truth", truth.masks),
        told("teacher", full.raw),
        told("redrawn by SAM as it comes", plain),
        told("redrawn as was learnt from the labels", full.masks | full.rejected),
        Panel(chosen, full.masks),
    ]
    window = window_of((truth.masks | full.raw).any(0))
    picture = in_pairs(
        seen, panels, setting.task.names, tuple(slice(max(s.start - 20, 0), s.stop + 20) for s in window)
    )
    picture.quantize(192).save(IMAGES / f"{name}-trust.png", optimize=True)


def in_pairs(image: np.ndarray, panels: list[Panel], names: list[str], window: tuple[slice, ...]) -> Image.Image:
    """Two panels a row, of a window of the image; without the room for a legend, which so many structures lack."""
    rows = []
    for first in range(0, len(panels), 2):
        pair = [
            replace(p, masks=None if p.masks is None else p.masks[(slice(None), *window)])
            for p in panels[first : first + 2]
        ]
        row = Image.open(io.BytesIO(case_panels(image[window], pair, names, height=2.2))).convert("RGB")
        rows.append(row.crop((0, 0, row.width, ImageOps.invert(row).getbbox()[3] + 8)))
    picture = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for number, row in enumerate(rows):
        picture.paste(row, (0, sum(above.height for above in rows[:number])))
    return picture


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in (commands := {"curves": curves, "quality": quality, "trust": trust}):
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
