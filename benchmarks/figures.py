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

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import numpy as np

from samstudent.evaluation.experiment import ours, summary, work
from samstudent.evaluation.experiment.plan import Setting
from samstudent.evaluation.experiment.report import learning_curves
from samstudent.evaluation.metrics import dice_per_structure, mean_of
from samstudent.evaluation.pictures import Panel, case_panels, reliability_picture
from samstudent.images import for_sam
from samstudent.pseudolabels.calibration import reliability
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.refine import refine

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
    job = max(made, key=lambda job: "second round" in job["label"])
    folders = {need: setting.work_folder(jobs[key]["kind"], key) for need, key in job["needs"].items()}
    cache = EmbeddingCache(setting.embeddings, 32 << 30)
    backend = work.backend_of(job["params"])
    labeller = ours.Labeller(setting.task, setting.store, job["params"], folders, backend, cache)
    image, truth = setting.store.known_case(case)
    label = labeller.label(image)
    plain = refine(label.probabilities, for_sam(image, setting.task.image), backend, setting.task, cache).masks
    accepted = [s for s in label.structures if s.status == "accepted"]
    there = [s for s in label.structures if s.status != "absent"]

    def told(what: str, masks: np.ndarray) -> Panel:
        return Panel(f"{what}: Dice {mean_of(dice_per_structure(truth, masks)):.2f}", masks)

    chosen = f"{len(accepted)} of {len(there)} accepted, at {np.mean([s.quality for s in accepted]):.2f}"
    panels = [
        Panel("truth", truth),
        told("teacher", label.raw),
        told("redrawn by SAM as it comes", plain),
        told("redrawn as was learnt from the labels", label.refined),
    ]
    shown = np.array([s.status == "accepted" for s in label.structures])
    panels.append(Panel(chosen, label.refined & shown[:, None, None]))
    (IMAGES / f"{name}-trust.png").write_bytes(
        case_panels(for_sam(image, setting.task.image), panels, setting.task.names, height=2.6)
    )


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in (commands := {"curves": curves, "quality": quality, "trust": trust}):
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
