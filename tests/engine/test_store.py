"""The content-keyed store."""

from __future__ import annotations

from pathlib import Path

import pytest

from samstudent.engine.store import ContentStore, content_key


def test_key_depends_on_content_not_on_order() -> None:
    assert content_key("a", {"x": 1, "y": [2]}) == content_key("a", {"y": [2], "x": 1})
    assert len({content_key("a"), content_key("b"), content_key("a", None), content_key(["a"])}) == 4


def test_values_that_are_not_json_are_refused_as_keys() -> None:
    with pytest.raises(TypeError):
        content_key(object())


def test_store_returns_written_results(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "of masks", ".bin")
    assert "k" not in store
    assert store.write("k", b"content") == store.path("k") == tmp_path / "of masks" / "k.bin"
    assert "k" in store
    assert 5 not in store
    assert [path.name for path in store.folder.iterdir()] == ["k.bin"]
