"""``samstudent reproduce``: published experiments on films and annotations that the user has.

The command imports its work when it runs, so that the command line starts without torch (seconds).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

reproduce_app = typer.Typer(no_args_is_help=True, help="Published experiments on the films that their authors used.")


@reproduce_app.callback()
def reproduce() -> None:
    """Published experiments on the films that their authors used."""


@reproduce_app.command("wrist")
def wrist(
    images: Annotated[Path, typer.Option(help="Folder of the films, right hands not mirrored.")],
    annotations: Annotated[list[Path], typer.Option(help="CVAT's XML files; several may follow one another.")],
    order: Annotated[Path, typer.Option(help="CSV of the films to train, in the order of labelling.")],
    more: Annotated[list[Path] | None, typer.Argument(help="Further annotation files.", show_default=False)] = None,
    output: Annotated[Path, typer.Option(help="Folder for films, models and report.")] = Path("reproduction-wrist"),
    sam_checkpoint: Annotated[
        Path | None, typer.Option(help="Weights of SAM; default: the embedded LiteMedSAM.")
    ] = None,
    sam_model: Annotated[str, typer.Option(help="Model of the weights: vit_h, vit_l, vit_b or medsam.")] = "vit_h",
    methods: Annotated[
        str, typer.Option(help="Methods; samstudent experiment lists them.")
    ] = "labels,raw,walker,meanteacher,paper,ours",
    labels: Annotated[str | None, typer.Option(help="Numbers of labels, e.g. 5,43; default: all.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the trainings.")] = "0,1,2",
    dataset: Annotated[Path | None, typer.Option(help="dataset.csv of GRAZPEDWRI-DX, for side and projection.")] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="CSV of the films without labels; default: all other frontal ones.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Half of each student's steps; 1050 are 350 epochs.")] = 1050,
    batch_size: Annotated[int, typer.Option(min=1, help="Films in a batch.")] = 16,
    network: Annotated[str, typer.Option(help="The student's network, as in a task file.")] = "unet",
    size: Annotated[str | None, typer.Option(help="Student's size, Y,X; default: 384,224.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: the GPUs, or the cores.")] = None,
) -> None:
    """The paper's wrist study (arXiv 2411.12602), beside the paper's figures. Repeat the command to continue."""
    from samstudent.research.reproduction.command import TrainingOptions, run
    from samstudent.research.reproduction.split import WristFiles

    ok = run(
        WristFiles(images, [*annotations, *(more or [])], order, dataset, unlabelled),
        output,
        TrainingOptions(steps, batch_size, network, size, sam_model, sam_checkpoint),
        labels=labels, methods=methods, seeds=seeds, jobs=jobs,
    )  # fmt: skip
    raise typer.Exit(0 if ok else 1)
