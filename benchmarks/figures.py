"""Figures of docs/images from what ``samstudent experiment`` left in its output folder. They hold no image of the data.

    python benchmarks/figures.py curves NAME OUTPUT
    python benchmarks/figures.py quality NAME LEGEND=OUTPUT/work/trusted-KEY/labels.json[,OTHER-SEED...] ...

``NAME-curves.png``: Dice over the number of labels for each method, of all that was measured in the folder.
``NAME-quality.png``: how well the Dice of pseudo labels was estimated.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from samstudent.evaluation.experiment import summary
from samstudent.evaluation.experiment.report import learning_curves
from samstudent.evaluation.pictures import reliability_picture
from samstudent.pseudolabels.calibration import reliability

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


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in ("curves", "quality"):
        sys.exit(__doc__)
    {"curves": curves, "quality": quality}[sys.argv[1]](*sys.argv[2:])
