"""What a choice of training does to the last student of ``ours``: Dice on train cases whose labels nobody saw.

    samstudent experiment FOLDER --labels 10 --seeds 0 --methods ours --output DIR
    python benchmarks/last_student.py DIR [--set training.human_share=0.17] [--steps 2] [--seeds 0,5,6]

Its students learn from the experiment's labels and the pseudo labels of its second round, of which the first hundred
are taken; they are measured on the other unlabelled cases, the val split, and the train cases that the experiment does
not use. Test cases are not looked at.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from samstudent.metrics import dice_where_known
from samstudent.pseudolabels.case import binarize
from samstudent.research.experiment import work
from samstudent.research.experiment.plan import Setting
from samstudent.research.experiment.store import StoredCases
from samstudent.student.predict import Student
from samstudent.student.training import train_student

TAUGHT = 100


def main() -> None:
    """Print a line for each student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--steps", type=float, default=1.0, help="times the experiment's")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--cases", type=int, default=200, help="measure on at most so many")
    arguments = parser.parse_args()
    plan = json.loads((arguments.folder / "plan.json").read_text())
    setting = Setting.from_json(plan["setting"])
    students = [job for job in plan["jobs"].values() if "pseudo" in job["needs"]]
    job = next(job for job in students if job["label"].endswith("second round"))
    params: dict[str, Any] = job["params"]
    pseudo = setting.work_folder("trusted", job["needs"]["pseudo"])
    labels = json.loads((pseudo / "labels.json").read_text())
    rest = [case for case in setting.pool if case not in params["labelled"]]
    taught = dict.fromkeys([case for case in labels["kept"] if case in rest[:TAUGHT]], pseudo)
    split = setting.folder.split
    unused = [case for case in split if split[case] == "train" and case not in setting.pool]
    new = [*rest[TAUGHT:], *unused, *(case for case in split if split[case] == "val")][: arguments.cases]
    for change in arguments.set:
        name, _, value = change.partition("=")
        section, _, key = name.partition(".")
        if section not in params["sections"]:
            parser.error(f"--set {change}: it takes keys of {' and '.join(params['sections'])}, as training.rotate=30")
        params["sections"][section][key] = yaml.safe_load(value)
    task, store = work.task_of(setting, params), setting.store
    for case in new:
        store.add(setting.folder, case)
    with tempfile.TemporaryDirectory() as scratch:
        for seed in map(int, arguments.seeds.split(",")):
            model = Path(scratch) / "model.pt"
            cases = StoredCases(store, params["labelled"], taught, soft=labels["soft"])
            train_student(cases, task, model, steps=round(arguments.steps * params["steps"]), seed=seed)
            student = Student.load(model, task)
            dice = [
                dice_where_known(truth, binarize(student.predict(image), task))
                for image, truth in map(store.known_case, new)
            ]
            mean = 100 * np.nanmean(np.nanmean(dice, axis=0))
            print(f"seed {seed}: {mean:.1f} on {len(new)} cases, taught {len(taught)} pseudo labels", flush=True)


if __name__ == "__main__":
    main()
