"""Hold-out: decided when a case is first listed, never changed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samstudent.errors import UserError
from samstudent.imaging.file_names import case_id
from samstudent.rounds.holdout import HoldOut, read_split


def by_hash(ids):
    return sorted(ids, key=lambda case: hashlib.sha256(case.encode()).digest())


def cases(n, prefix="case"):
    return [f"{prefix}{i}" for i in range(n)]


def test_the_first_of_the_hash_order_are_reserved(tmp_path: Path):
    holdout = HoldOut(tmp_path / "holdout.json", 0.2)
    holdout.extend(cases(20), [])
    assert holdout.ids == set(by_hash(cases(20))[:4])


def test_labelled_and_unlabelled_cases_are_counted_separately(tmp_path: Path):
    holdout = HoldOut(tmp_path / "holdout.json", 0.1)
    labelled, rest = cases(5, "l"), cases(30, "u")
    holdout.extend(labelled + rest, labelled)
    assert holdout.ids == {by_hash(labelled)[0], *by_hash(rest)[:3]}
    train, test = holdout.split(labelled)
    assert train == sorted(set(labelled) - holdout.ids) and test == [by_hash(labelled)[0]]


@pytest.mark.parametrize(
    ("n", "fraction", "expected"), [(4, 0.1, 0), (5, 0.1, 1), (5, 0.0, 0), (1, 0.9, 0), (2, 0.9, 1)]
)
def test_reserved_number_for_few_labels(tmp_path: Path, n: int, fraction: float, expected: int):
    holdout = HoldOut(tmp_path / "holdout.json", fraction)
    holdout.extend(cases(n), cases(n))
    assert len(holdout.ids) == expected


def test_changed_fraction_applies_to_new_cases_only(tmp_path: Path):
    HoldOut(tmp_path / "holdout.json", 0.0).extend(cases(100), [])
    holdout = HoldOut(tmp_path / "holdout.json", 0.2)
    holdout.extend(cases(100), [])
    assert not holdout.ids
    holdout.extend(cases(110), [])
    assert len(holdout.ids) == 2 and holdout.ids <= set(cases(110)[100:])


batches = st.lists(st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=15), min_size=1, max_size=8)


@given(batches=batches, fraction=st.sampled_from([0.0, 0.1, 0.2, 0.35, 0.5]))
def test_hold_out_is_stable_for_any_order_of_cases(tmp_path_factory, batches, fraction):
    """Reserved and free cases stay so, the share is preserved, and new labels have no effect."""
    path = tmp_path_factory.mktemp("holdout") / "holdout.json"
    seen: set[str] = set()
    labelled: set[str] = set()
    reserved: set[str] = set()
    for batch in batches:
        seen_before = set(seen)
        seen |= {str(i) for i, _ in batch}
        labelled |= {str(i) for i, is_labelled in batch if is_labelled}
        holdout = HoldOut(path, fraction)
        holdout.extend(seen, labelled)
        assert reserved <= holdout.ids
        assert not (holdout.ids - reserved) & seen_before
        reserved = set(holdout.ids)
        again = HoldOut(path, fraction)
        again.extend(seen, seen)
        assert again.ids == reserved
        assert set(again.trainable(seen)) == seen - reserved
    # Each of the two groups is rounded, has at least one if it is big enough, and is never taken whole.
    assert abs(len(reserved) - fraction * len(seen)) <= 2
    train, test = HoldOut(path, fraction).split(labelled)
    assert set(train) | set(test) == labelled and not set(train) & reserved and set(test) <= reserved


def test_split_applies_to_new_cases(tmp_path: Path):
    holdout = HoldOut(tmp_path / "holdout.json", 0.2)
    assert holdout.trainable(["new"]) == []
    train, test = holdout.split(cases(10))
    assert len(test) == 2 and len(train) == 8
    assert HoldOut(tmp_path / "holdout.json", 0.2).ids == set(test)


def test_concurrent_processes_agree_on_the_hold_out(tmp_path: Path):
    path = tmp_path / "holdout.json"
    code = (
        "import sys; from pathlib import Path; from samstudent.rounds.holdout import HoldOut\n"
        "for i in range(10): HoldOut(Path(sys.argv[1]), 0.5).extend([f'{sys.argv[2]}-{i}', f'both-{i}'], [])"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "abc"]
    assert [child.wait() for child in children] == [0, 0, 0]
    state = json.loads(path.read_text())
    assert len(state["unlabelled"]["seen"]) == 40 and len(state["unlabelled"]["reserved"]) == 20


def test_a_damaged_file_is_named(tmp_path: Path):
    path = tmp_path / "holdout.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"holdout\.json.*backup"):
        _ = HoldOut(path, 0.2).ids
    with pytest.raises(UserError, match="fraction"):
        HoldOut(path, 1.0)


class TestSplitFile:
    def holdout(self, tmp_path: Path, text: str, fraction: float = 0.5) -> HoldOut:
        (tmp_path / "split.csv").write_text(text)
        return HoldOut(tmp_path / "state" / "holdout.json", fraction, tmp_path / "split.csv")

    def test_val_is_the_hold_out_and_test_is_excluded(self, tmp_path: Path):
        holdout = self.holdout(tmp_path, "id,split,train_order\na,val,\nb,test,\nc,train,0\nd,train,1\n")
        holdout.extend(["a", "b", "c", "d", "e", "f", "g"], ["a", "b", "c"])
        assert holdout.ids == {"a"} and holdout.excluded == {"b"}
        assert holdout.split(["a", "b", "c"]) == (["c"], ["a"])
        assert holdout.trainable("abcdefg") == ["c", "d", "e", "f", "g"]

    def test_without_a_val_row_the_share_is_reserved(self, tmp_path: Path):
        holdout = self.holdout(tmp_path, "id,split\na,train\nb,test\n")
        holdout.extend("abcdefg", [])
        assert len(holdout.ids) == 3 and "b" not in holdout.ids and holdout.excluded == {"b"}

    def test_extensions_in_the_split_are_removed_as_in_ids(self, tmp_path: Path):
        holdout = self.holdout(tmp_path, "id,split\nx.nii.gz,val\n1.2.840.55,val\nbone.PNG,test\n")
        holdout.extend(["x", "1.2.840.55", "1.2.840", "bone"], [])
        assert holdout.ids == {"x", "1.2.840.55"} and "bone" in holdout.excluded
        assert holdout.trainable(["x", "1.2.840", "bone"]) == ["1.2.840"]

    def test_rows_can_contain_file_names(self, tmp_path: Path):
        """In either Unicode form; an invalid id stands for the safe id of its file."""
        composed, decomposed = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
        holdout = self.holdout(tmp_path, f"id,split\n{decomposed},val\na:b.png,test\nc?,val\n")
        holdout.extend([composed, case_id("a:b"), case_id("c?"), "d"], [])
        assert holdout.ids == {composed, case_id("c?")} and case_id("a:b") in holdout.excluded
        assert holdout.trainable([composed, case_id("a:b"), "d"]) == ["d"]

    def test_decomposed_ids_of_earlier_versions_stay_reserved(self, tmp_path: Path):
        composed, decomposed = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
        group = {"seen": [decomposed], "reserved": [decomposed], "quota": 1.0}
        (tmp_path / "holdout.json").write_text(json.dumps({"unlabelled": group}))
        holdout = HoldOut(tmp_path / "holdout.json", 0.2)
        holdout.extend([composed], [])
        assert holdout.ids == {composed} and holdout.trainable([composed]) == []

    def test_later_split_keeps_reserved_cases(self, tmp_path: Path):
        HoldOut(tmp_path / "state" / "holdout.json", 0.5).extend(cases(10), [])
        first = by_hash(cases(10))
        holdout = self.holdout(tmp_path, f"id,split\n{first[0]},train\n{first[1]},test\n{first[9]},val\n")
        holdout.extend(cases(12), [])
        assert holdout.ids == {first[0], *first[2:5], first[9]}
        (tmp_path / "split.csv").unlink()
        assert first[9] in holdout.ids

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "line 1: expected the columns id,split"),
            ("id;split\na;val\n", "line 1: expected the columns id,split"),
            ("id,split\na,val\nb,validation\n", "line 3: split must be one of train, val, test, not 'validation'"),
            ("id,split\n,val\n", "line 2: the id is empty"),
            ("id,split\na\n", "line 2: not as many values"),
            ("id,split\na,val,3\n", "line 2: not as many values"),
            ("id,split\na,val\na,train\n", "line 3: 'a' is listed as val before and as train"),
            ("id,split\na,val\na.png,train\n", "'a.png' is train, but 'a' is val"),
            ("id,split,train_order\na,train,first\n", "line 2: train_order must be a whole number"),
        ],
    )
    def test_errors_name_the_line(self, tmp_path: Path, text: str, message: str):
        with pytest.raises(UserError, match=f"split.csv.*{message}"):
            self.holdout(tmp_path, text).extend(["a"], [])

    def test_binary_split_file_is_refused(self, tmp_path: Path):
        (tmp_path / "split.csv").write_bytes(b"id,split\n\xff\xfe,val\n")
        with pytest.raises(UserError, match="UTF-8"):
            read_split(tmp_path / "split.csv")

    def test_split_of_real_data_is_read(self, shared_data: Path):
        rows = read_split(shared_data / "ultrasound" / "split.csv")
        assert {split: list(rows.values()).count(split) for split in ("train", "val", "test")} == {
            "train": 184,
            "val": 20,
            "test": 40,
        }


def test_frames_of_a_clip_are_reserved_together(tmp_path: Path):
    clips = {clip: [f"{clip}@{frame:04}" for frame in range(1, 6)] for clip in cases(10, "clip")}
    frames = [frame for clip in clips.values() for frame in clip]
    holdout = HoldOut(tmp_path / "holdout.json", 0.2)
    # One frame of each of four clips has a label: all their frames are counted with it.
    holdout.extend(frames, [clips[clip][0] for clip in list(clips)[:4]])
    assert {len(holdout.ids & set(clip)) for clip in clips.values()} == {0, 5}
    assert len(holdout.ids) == 10
    # A later frame follows its clip.
    reserved, trained = (next(c for c in clips if (clips[c][0] in holdout.ids) is held) for held in (True, False))
    holdout.extend([*frames, f"{reserved}@0006", f"{trained}@0006"], [])
    assert f"{reserved}@0006" in holdout.ids and holdout.trainable([f"{trained}@0006"]) == [f"{trained}@0006"]


def test_the_only_clip_is_not_reserved(tmp_path: Path):
    holdout = HoldOut(tmp_path / "holdout.json", 0.5)
    frames = [f"clip@{frame:04}" for frame in range(1, 9)]
    holdout.extend(frames, frames)
    assert not holdout.ids
