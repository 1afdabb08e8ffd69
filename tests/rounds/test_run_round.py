"""Whole rounds on synthetic cases, without a server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from samstudent.pseudolabels.ablations import Ablations
from samstudent.rounds.case_store import CaseSource
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.run_round import Champion, RoundCases, RoundOptions, RoundResult, run_round
from samstudent.rounds.trained import Trained
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.cached_sam import CachedSam
from samstudent.task import PAPER_STAGES, Recipe, Task
from samstudent.util.progress import Progress
from support.case_sources import DrawnSource
from support.drawn import FakeSam, small_task

pytestmark = pytest.mark.training

#: ``FakeSam`` has nothing to train.
FAST = Ablations(adapt_sam=False, embedding_head=False)
TASK = small_task(training={"steps": 10, "batch_size": 4, "learning_rate": 0.01})


def sources(ids: str, labelled: bool = True) -> list[DrawnSource]:
    return [DrawnSource(id, labelled) for id in ids]


def play(
    folder: Path, cases: RoundCases, task: Task = TASK, sam: Any = None, **options: Any
) -> tuple[RoundResult, RoundStore, list[Progress]]:
    store = RoundStore(folder, task, sam=sam or CachedSam(FakeSam()))  # type: ignore[arg-type]
    events: list[Progress] = []
    how = RoundOptions(**{"device": "cpu", "ablations": FAST, **options})
    return run_round(cases, task, how, store=store, report=events.append), store, events


def test_each_case_is_decoded_once_in_a_round(tmp_path: Path) -> None:
    labelled, held, unlabelled = sources("0123"), sources("45"), sources("678", labelled=False)
    hashed: Counter[str] = Counter()

    class Counted(DrawnSource):
        def content(self) -> Any:
            hashed[self.id] += 1
            return super().content()

    every: list[CaseSource] = [*labelled, *held, *unlabelled, Counted("9")]
    result, store, events = play(tmp_path, RoundCases([*labelled, every[-1]], unlabelled, held))
    assert {source.id: source.decoded for source in every} == dict.fromkeys("0123456789", 1)  # type: ignore[attr-defined]
    assert hashed == {"9": 1}
    assert result.labels == tuple("01239") and result.pseudo_labels == tuple("678")
    assert set(result.fold_dice) == set("01239") and set(result.compared.dice[0]) == set("45")
    assert result.model == store.model_path and result.model.is_file() and result.compared.decision.promote
    steps = list(dict.fromkeys(event.step for event in events))
    assert steps[:3] == ["reading labelled cases", "reading held-out cases", "training students on folds"]
    assert steps[-2:] == ["training the student", "comparing on the hold-out"]
    assert set(result.seconds) == {"prepare", "cross-fit", "fit heads", "fit policy", "label", "train", "compare"}


def test_a_second_round_has_the_champion_among_its_teachers(tmp_path: Path) -> None:
    cases = RoundCases(sources("012"), sources("67", labelled=False))
    first, store, _ = play(tmp_path / "r1", cases)
    champion = Champion("r1", first.model, Trained(frozenset(first.labels + first.pseudo_labels)), first.fold_dice)
    second, _, _ = play(
        tmp_path / "r2", RoundCases(cases.labelled, cases.unlabelled, (), champion), champion_weight=0.5
    )
    assert first.made_with is not None and second.made_with is not None
    assert first.made_with.student != second.made_with.student
    assert store.labels.folder.is_dir() and second.skip_reason is None


def test_stopped_round_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = RoundCases(sources("012"), sources("67", labelled=False))
    whole, _, _ = play(tmp_path / "whole", cases)

    def stopped(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("samstudent.rounds.run_round.train_student", stopped)
        with pytest.raises(KeyboardInterrupt):
            play(tmp_path / "stopped", cases)
    assert not (tmp_path / "stopped" / "model.pt").exists()
    again, _, events = play(tmp_path / "stopped", cases)
    assert again.training.version == whole.training.version
    assert not any(event.step == "training students on folds" for event in events)


def test_the_papers_recipe_runs_through_a_round(tmp_path: Path, tiny: Any) -> None:
    """A box, then points with the logits of the first stage; SAM has random weights."""
    task = small_task(
        training={"steps": 10, "batch_size": 4, "learning_rate": 0.01},
        recipe=Recipe(component="probable", stages=PAPER_STAGES).model_dump(),
    )
    sam = CachedSam(tiny, EmbeddingCache(tmp_path / "embeddings"))
    cases = RoundCases(sources("012"), sources("67", labelled=False))
    parts = Ablations(adapt_sam=False, embedding_head=False, choose_recipe=False, estimate_quality=False)
    result, store, _ = play(tmp_path, cases, task, sam, ablations=parts)
    assert result.policy is not None
    assert {recipe.stages for recipe in result.policy.choice.recipes.values()} == {PAPER_STAGES}
    assert result.made_with is not None and result.made_with.sam_digest == tiny.digest
    masks = [load_file(path)["masks"] for path in store.labels.folder.glob("*.refined.safetensors")]
    assert len(masks) == 2
