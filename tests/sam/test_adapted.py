from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from samstudent.errors import NotFound, UserError
from samstudent.sam.adapted import Adaptation, digest_of, load_adapted, save_adapted, with_weights
from samstudent.sam.prompts import Prompt

IMAGE = np.random.default_rng(2).integers(0, 256, (64, 48, 3), dtype=np.uint8)
BOX = Prompt(box=(5, 6, 30, 40))


def decoder_weights(backend: Any, change: float = 0.01) -> dict[str, torch.Tensor]:
    state = backend.load().mask_decoder.state_dict()
    return {f"mask_decoder.{name}": value.clone().contiguous() + change for name, value in state.items()}


def adaptation(weights: dict[str, torch.Tensor], **changes: Any) -> Adaptation:
    content: dict[str, Any] = {
        "weights": weights, "folds": {0: weights}, "steps": 40, "plain": 0.7, "adapted": 0.8, "gain": 0.1,
        "error": 0.02, "used": True, "reason": "better", "curve": [{"step": 0, "dice": 0.7, "folds": {0: 0.7}}],
        "labels": ["a", "b", "c"], "settings": {"steps": 100, "seed": 3}, "seconds": 1.5,
    }  # fmt: skip
    return Adaptation(**(content | changes))


def test_a_backend_with_other_weights_shares_the_encoder(tiny: Any) -> None:
    before = {name: value.clone() for name, value in tiny.load().state_dict().items()}
    embedding = tiny.embed(IMAGE)
    plain = tiny.decode(embedding, BOX)
    weights = decoder_weights(tiny)
    adapted = with_weights(tiny, weights)
    answer = adapted.decode(adapted.embed(IMAGE), BOX)
    assert not np.allclose(answer.low_res, plain.low_res, atol=1e-2)
    np.testing.assert_array_equal(adapted.embed(IMAGE).features, embedding.features)
    assert adapted.digest == digest_of(tiny, weights) != tiny.digest
    assert adapted.embedding_digest == tiny.digest and adapted.name == tiny.name
    for name, parameter in adapted.load().named_parameters():
        assert (parameter.data_ptr() == dict(tiny.load().named_parameters())[name].data_ptr()) == (name not in weights)
    # The plain one is as it was.
    assert tiny.digest == "0" * 64
    assert all(torch.equal(before[name], value) for name, value in tiny.load().state_dict().items())
    np.testing.assert_array_equal(tiny.decode(embedding, BOX).low_res, plain.low_res)


def test_explicit_digest_is_used_and_equal_weights_have_equal_digests(tiny: Any) -> None:
    weights = decoder_weights(tiny)
    assert with_weights(tiny, weights, "e" * 64).digest == "e" * 64
    assert digest_of(tiny, dict(reversed(weights.items()))) == digest_of(tiny, weights)
    assert digest_of(tiny, decoder_weights(tiny, 0.02)) != digest_of(tiny, weights)
    other = copy.copy(tiny)
    other.digest = "1" * 64
    assert digest_of(other, weights) != digest_of(tiny, weights)


def test_weights_of_another_sam_are_refused(tiny: Any) -> None:
    for weights, name in (
        ({"mask_decoder.nothing": torch.zeros(1)}, "nothing"),
        ({"mask_decoder.iou_token.weight": torch.zeros(1, 7)}, "iou_token"),
        ({"image_encoder.neck.0.weight": tiny.load().image_encoder.neck[0].weight.detach()}, "image_encoder"),
    ):
        with pytest.raises(UserError, match=rf"{name}.* does not fit this SAM"):
            with_weights(tiny, weights)


def test_saved_file_restores_backend_and_record(tiny: Any, tmp_path: Path) -> None:
    path, weights = tmp_path / "s" / "adapted.safetensors", decoder_weights(tiny)
    digest = save_adapted(path, adaptation(weights, adapted=math.nan), tiny)
    loaded, direct = load_adapted(path, tiny), with_weights(tiny, weights)
    assert loaded.digest == direct.digest == digest
    embedding = tiny.embed(IMAGE)
    np.testing.assert_array_equal(loaded.decode(embedding, BOX).low_res, direct.decode(embedding, BOX).low_res)
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
    assert (meta["base"], meta["digest"], meta["backend"]) == (tiny.digest, digest, "vit_b")
    assert meta["date"].startswith("20")
    record = json.loads(meta["record"])
    assert (record["labels"], record["steps"], record["plain"], record["adapted"]) == (["a", "b", "c"], 40, 0.7, None)
    assert record["settings"] == {"steps": 100, "seed": 3}
    json.dumps(record, allow_nan=False)
    assert [file.name for file in path.parent.iterdir()] == ["adapted.safetensors"]


def test_other_base_model_or_damage_names_the_file(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "adapted.safetensors"
    save_adapted(path, adaptation(decoder_weights(tiny)), tiny)
    other = copy.copy(tiny)
    other.digest = "1" * 64
    with pytest.raises(
        UserError, match=r"adapted\.safetensors: adapted from the SAM vit_b of digest 0+, but .* digest 1+"
    ):
        load_adapted(path, other)
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"adapted\.safetensors: damaged"):
        load_adapted(path, tiny)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match=r"adapted\.safetensors: not a file"):
        load_adapted(path, tiny)
    with pytest.raises(NotFound, match=r"gone\.safetensors"):
        load_adapted(tmp_path / "gone.safetensors", tiny)


def test_another_file_of_tensors_is_refused(tiny: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x\.safetensors: not an adapted SAM"):
        load_adapted(tmp_path / "x.safetensors", tiny)


def test_unused_adaptation_is_not_saved(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="plain SAM is used: no gain"):
        save_adapted(tmp_path / "x.safetensors", adaptation({}, used=False, reason="no gain"), tiny)
    assert not list(tmp_path.iterdir())
