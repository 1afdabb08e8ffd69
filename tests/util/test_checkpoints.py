from __future__ import annotations

from pathlib import Path

import pytest
import torch

from samstudent.errors import UserError
from samstudent.util.checkpoints import checked_digest, load_weights


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."])
def test_invalid_checkpoint_is_refused_and_runs_no_code(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.pth"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.pth: not a PyTorch checkpoint"):
        load_weights(torch.nn.Linear(2, 2), file, "vit_b")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    file, model = tmp_path / "w.pth", torch.nn.Linear(2, 3)
    for state, reason in (
        ({"weight": torch.zeros(3, 2)}, "1 missing, 0 unknown .*bias"),
        ({**model.state_dict(), "extra": torch.zeros(1)}, "0 missing, 1 unknown .*extra"),
        ({"weight": torch.zeros(2, 2), "bias": torch.zeros(3)}, r"weight is \(2, 2\), should be \(3, 2\)"),
        (torch.zeros(3), "contains a Tensor"),
    ):
        torch.save(state, file)
        with pytest.raises(UserError, match=rf"w\.pth.*{reason}"):
            load_weights(model, file, "vit_b")


def test_training_checkpoint_is_loaded(tmp_path: Path) -> None:
    file, source, target = tmp_path / "w.pth", torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    torch.save({"model": source.state_dict(), "epoch": 3}, file)
    load_weights(target, file, "vit_b")
    assert torch.equal(source.weight, target.weight)
    assert checked_digest(file, "sam.checkpoint") == checked_digest(
        file, "sam.checkpoint", checked_digest(file, "sam.checkpoint")
    )
