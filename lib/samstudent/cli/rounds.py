"""``samstudent rounds``: list, show, promote and roll back the rounds of a study."""

from __future__ import annotations

from typing import Annotated

import typer

from samstudent.cli.app_folder import app_folder_path
from samstudent.cli.options import AsJson, Studies, TaskOption, print_json
from samstudent.rounds.audited_ledger import audited_ledger
from samstudent.rounds.ledger import Ledger
from samstudent.rounds.round_record import RoundRecord
from samstudent.rounds.study_paths import StudyPaths
from samstudent.task import load_task

rounds_app = typer.Typer(no_args_is_help=True, help="The rounds of a study: list, show, promote, roll back.")

RoundId = Annotated[str, typer.Argument(help="e.g. r0003")]


@rounds_app.command("list")
def list_rounds(studies: Studies, task: TaskOption, as_json: AsJson = False) -> None:
    """List all rounds with numbers of training cases and Dice; the served round is marked."""
    ledger = open_ledger(studies, task)
    if as_json:
        champion = ledger.champion()
        served = champion.id if champion else None
        print_json([record.model_dump() | {"served": record.id == served} for record in ledger.rounds()])
    else:
        print_rounds(ledger)


@rounds_app.command("show")
def show_round(round_id: RoundId, studies: Studies, task: TaskOption, as_json: AsJson = False) -> None:
    """Show one round: number of training cases, decision, and cases that were left out, with the reasons."""
    record = open_ledger(studies, task).get(round_id)
    if as_json:
        print_json(record.model_dump())
        return
    typer.echo(f"{record.id}: {record.status}; started by: {record.reason or '-'}")
    typer.echo(f"trained on {len(record.labels_used)} human labels and {record.pseudo_used.n} pseudo labels")
    typer.echo(
        f"hold-out: {len(record.holdout_ids)} labelled cases, {len(record.not_compared)} of them not compared on"
    )
    for text in filter(None, (_bounds(record), record.decision, record.error)):
        typer.echo(text)
    for use, cases in (("not trained on", record.unreadable), ("not compared on", record.not_compared)):
        for case, reason in sorted(cases.items()):
            typer.echo(f"{use}: {case}: {reason}")


@rounds_app.command("promote")
def promote_round(round_id: RoundId, studies: Studies, task: TaskOption) -> None:
    """Promote the student of this round: the server uses it from now on."""
    open_ledger(studies, task).promote(round_id, who="command line")
    typer.echo(f"{round_id} is served now")


@rounds_app.command("rollback")
def roll_back(studies: Studies, task: TaskOption) -> None:
    """Roll back to the student that was served before."""
    typer.echo(f"{open_ledger(studies, task).rollback(who='command line')} is served now")


def open_ledger(studies: str, task: str) -> Ledger:
    """Ledger of a study; its changes are written to the audit log."""
    folder = app_folder_path(studies)
    return audited_ledger(StudyPaths.of(studies, str(folder)).folder_of(load_task(task).name))


def print_rounds(ledger: Ledger) -> None:
    """Print a table with a row for each round."""
    from rich.console import Console  # here, not above: 0.1 s that JSON and `show` do not need
    from rich.table import Table

    rounds, champion = list(ledger.rounds()), ledger.champion()
    table = Table("round", "status", "served", "labels", "pseudo", "left out", "Dice", "champion's", "started by")
    for record in rounds:
        dice = record.dice.get("challenger") or {}
        before = record.dice.get("champion") or {}
        table.add_row(
            record.id,
            record.status,
            "<-" if champion and champion.id == record.id else "",
            str(len(record.labels_used)),
            str(record.pseudo_used.n),
            str(len(record.unreadable) + len(record.not_compared) or ""),
            _percent(dice.get("mean")),
            _percent(before.get("mean")),
            record.error or record.reason,
        )
    Console().print(table)
    if any(record.unreadable or record.not_compared for record in rounds):
        typer.echo(
            "labels, pseudo: numbers of training cases. Reasons for cases left out: samstudent rounds show ROUND"
        )


def _bounds(record: RoundRecord) -> str:
    """How often the lower bounds of Dice of a round's pseudo labels were true; empty: there are none."""
    bound = record.dice_bound
    if bound is None:
        return ""
    about, found = f"lower bounds of Dice, certainty {100 * bound['certainty']:.0f} %", bound["cross_validated"]
    if bound["cases"] < bound["needed"]:
        return f"{about}: none; {bound['cases']} labelled cases, {bound['needed']} are needed"
    if found is None:
        return f"{about}: how often they are true is not known; there are only {bound['cases']} labelled cases"
    return f"{about}: true for {100 * found['coverage']:.0f} % of {found['structures']} structures that were left out"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
