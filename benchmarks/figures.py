"""Figures of docs/images from the results of experiments.

    python benchmarks/figures.py NAME=results.json [NAME=results.json ...]

For each experiment (``samstudent experiment``) two PNG files in docs/images: ``NAME-curves.png``, Dice over the number
of labels for each method, and ``NAME-quality.png``, how well the Dice of pseudo labels was estimated. The files hold
figures only, no image of the data.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from samstudent.evaluation.experiment import summary
from samstudent.evaluation.experiment.report import learning_curves
from samstudent.evaluation.pictures import reliability_picture

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def main(arguments: list[str]) -> None:
    if not arguments or not all("=" in argument for argument in arguments):
        sys.exit(__doc__)
    for name, path in (argument.split("=", 1) for argument in arguments):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        (IMAGES / f"{name}-curves.png").write_bytes(learning_curves(summary.table(content["results"])))
        qualities = {
            f"{q['cases']}, {q['labels']} labels": q["reliability"]
            for q in content["quality"]
            if q["method"] == "ours" and q["reliability"]
        }
        if qualities:
            (IMAGES / f"{name}-quality.png").write_bytes(reliability_picture(qualities))


if __name__ == "__main__":
    main(sys.argv[1:])
