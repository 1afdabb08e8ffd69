"""``samstudent reproduce wrist``: the paper's experiment by ``samstudent experiment``, beside the paper's figures."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from samstudent.errors import NotFound, UserError
from samstudent.research.experiment.command import run_and_print, whole_numbers
from samstudent.research.experiment.methods import select
from samstudent.research.experiment.plan import ExperimentOptions
from samstudent.research.experiment.published import Published, published_note, published_table
from samstudent.research.reproduction.prepare import prepare_folder
from samstudent.research.reproduction.split import WristFiles, WristSplit, make_split
from samstudent.research.setting import FolderOptions
from samstudent.task import Task, load_task
from samstudent.util.files import atomic_write

console = Console()

#: The paper's training: 350 epochs of 43 films in batches of 16, three in an epoch; Adam with this learning rate.
STEPS, BATCH_SIZE, LEARNING_RATE = 1050, 16, 1e-3
#: The two figures of the paper's abstract.
PAPER = Published(
    source="Keuth et al., SAM Carries the Burden, arXiv 2411.12602, abstract: bones of the paediatric wrist, U-Net on "
    "the labels alone and with pseudo labels refined by SAM (ViT-H)",
    labels=43,
    dice={"labels": 0.7429, "paper": 0.8417},
)
_EMBEDDED = (
    "SAM: the embedded LiteMedSAM in place of the paper's ViT-H. It was never trained on points, so the paper's second "
    "stage (points with logits) is not what the paper measured; give --sam-checkpoint"
)


@dataclass(frozen=True)
class TrainingOptions:
    """Options of the students and of SAM.

    Attributes:
        steps: half of each student's steps.
        batch_size: films in a batch.
        network: student's network, as in a task file.
        size: student's size, Y,X; None: the paper's.
        sam_model: backend of a checkpoint, as in a task file.
        sam_checkpoint: weights of SAM; None: the embedded LiteMedSAM.
    """

    steps: int = STEPS
    batch_size: int = BATCH_SIZE
    network: str = "unet"
    size: str | None = None
    sam_model: str = "vit_h"
    sam_checkpoint: Path | None = None


def run(
    files: WristFiles, output: Path, training: TrainingOptions, *, labels: str | None, methods: str, seeds: str,
    jobs: int | None = None,
) -> bool:  # fmt: skip
    """Prepare the folder, run the experiment and print the paper's figures beside the measured ones.

    Args:
        files: films and annotations.
        output: folder for the prepared films (``data/``), ``task.yaml``, models, results.json and report.html.
        training: options of the students and of SAM.
        labels: numbers of labels, separated by commas; None: all films to train.
        methods, seeds: separated by commas.
        jobs: number of processes; None: one per GPU or core; 0: this process.

    Returns:
        True if no job failed.
    """
    names = tuple(word.strip() for word in methods.split(",") if word.strip())
    select(names)
    task = wrist_task(training)
    split = make_split(files)
    remarks = prepare_folder(split, task.names, output / "data")
    atomic_write(output / "task.yaml", json.dumps(task.model_dump(mode="json"), ensure_ascii=False, indent=1))
    _print_split(split, remarks)
    notes = [None if training.sam_checkpoint else _EMBEDDED, split.difference_from_paper()]
    numbers = str(len(split.parts["train"])) if labels is None else labels
    options = ExperimentOptions(
        FolderOptions(
            output / "data",
            output,
            str(output / "task.yaml"),
            size=whole_numbers("--size", training.size) if training.size else None,
        ),
        labels=tuple(dict.fromkeys(whole_numbers("--labels", numbers))),
        methods=names,
        seeds=tuple(dict.fromkeys(whole_numbers("--seeds", seeds))),
        jobs=jobs,
        command=shlex.join(["samstudent", *sys.argv[1:]]),
        notes=tuple(note for note in notes if note is not None),
        published=PAPER,
    )
    results = run_and_print(options)
    _print_published(results)
    return not results["failed"]


def wrist_task(training: TrainingOptions) -> Task:
    """The shipped task ``wrist`` with the paper's training.

    Raises:
        NotFound: no such checkpoint.
        UserError: an option that a task file does not allow.
    """
    checkpoint = training.sam_checkpoint
    if checkpoint is not None and not checkpoint.is_file():
        raise NotFound(f"--sam-checkpoint {checkpoint}: no such file")
    content: dict[str, Any] = load_task("wrist").model_dump(mode="json")
    content["description"] += ", trained as in arXiv 2411.12602"
    content["student"]["network"] = training.network
    # All hands are left ones here, so mirroring would only show what does not occur.
    content["training"] |= {
        "steps": training.steps, "batch_size": training.batch_size, "learning_rate": LEARNING_RATE, "mirror": [],
    }  # fmt: skip
    if checkpoint is not None:
        content["sam"] = {"backend": training.sam_model, "checkpoint": str(checkpoint.resolve())}
    try:
        return Task.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']} (got {first['input']!r})") from error


def _print_split(split: WristSplit, remarks: Sequence[str]) -> None:
    numbers = ", ".join(f"{len(films)} {part}" for part, films in split.parts.items())
    console.print(
        f"films: {numbers}, {len(split.unlabelled)} without a label; {len(split.mirrored)} right hands mirrored",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for remark in (*split.remarks, *remarks):
        console.print(escape(remark), highlight=False, soft_wrap=True)


def _print_published(results: dict[str, Any]) -> None:
    columns, rows = published_table(results)
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(published_note(results), highlight=False, soft_wrap=True)
