"""One round without a server: ``python docs/examples/run_round.py IMAGES LABELS TASK OUTPUT [STEPS]``."""

from __future__ import annotations

import sys
from pathlib import Path

from samstudent.imaging.file_names import LABELS
from samstudent.imaging.folder import list_folder
from samstudent.rounds.cases import FileCase
from samstudent.rounds.round_options import RoundCases, RoundOptions
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.run_round import RoundResult, run_round
from samstudent.task import load_task
from samstudent.util.progress import Progress


def show(progress: Progress) -> None:
    """Print the progress of a step."""
    print(f"{progress.step}: {progress.done} of {progress.total}", end="\r")


def round_of_folders(images: Path, labels: Path, task_name: str, output: Path, options: RoundOptions) -> RoundResult:
    """Run one round: cases with a label of the same name are labelled, all others get pseudo labels."""
    task = load_task(task_name)
    labelled = list_folder(labels, LABELS).files
    cases = [FileCase(case, path, labelled.get(case)) for case, path in list_folder(images).files.items()]
    return run_round(
        RoundCases(
            labelled=[case for case in cases if case.label is not None],
            unlabelled=[case for case in cases if case.label is None],
        ),
        task,
        options,
        store=RoundStore(output, task),
        report=show,
    )


if __name__ == "__main__":
    images_folder, labels_folder, task_argument, output_folder, *more = sys.argv[1:]
    round_options = RoundOptions(steps=int(more[0]) if more else None)
    result = round_of_folders(
        Path(images_folder), Path(labels_folder), task_argument, Path(output_folder), round_options
    )
    print(f"\nstudent: {output_folder}/model.pt")
    print(f"pseudo labels in the training set: {len(result.pseudo_labels)}; {result.skip_reason or 'none skipped'}")
