"""The content-keyed store."""

from __future__ import annotations

from pathlib import Path

import pytest

from samstudent.engine.store import ContentStore, content_key


def test_a_key_depends_on_content_and_not_on_the_order_of_keys() -> None:
    assert content_key("a", {"x": 1, "y": [2]}) == content_key("a", {"y": [2], "x": 1})
    assert len({content_key("a"), content_key("b"), content_key("a", None), content_key(["a"])}) == 4


def test_values_that_are_not_plain_make_no_key() -> None:
    with pytest.raises(TypeError):
        content_key(object())


def test_a_store_has_what_was_written(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "of masks", ".bin")
    assert "k" not in store
    assert store.write("k", b"content") == store.path("k") == tmp_path / "of masks" / "k.bin"
    assert "k" in store
    assert 5 not in store
    assert [path.name for path in store.folder.iterdir()] == ["k.bin"]
