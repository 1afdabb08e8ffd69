"""Student as an ONNX file."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from samstudent.errors import UserError
from samstudent.export.graph import ImageMasks, ImageStudent
from samstudent.export.plain_network import PlainNetwork
from samstudent.task import Task
from samstudent.util.files import atomic_write

#: Version of the ONNX operators: the first with all that the graph needs; onnxruntime 1.14 (2023) has it.
OPSET = 18
#: Packages that PyTorch's exporter needs.
_PACKAGES = ("onnx", "onnxscript")


def check_onnx_packages() -> None:
    """Raise UserError if a package of the extra ``export`` is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs {' and '.join(missing)}: pip install 'samstudent[export]'")


def write_onnx(path: Path, network: PlainNetwork, task: Task) -> None:
    """Write an ONNX file, atomically: ``ImageMasks``, or of volumes the network for one window.

    Raises:
        UserError: a package is missing.
    """
    check_onnx_packages()
    model: torch.nn.Module
    arguments: tuple[torch.Tensor, ...]
    options: dict[str, Any]
    if task.dimension == 2:
        model = ImageMasks(ImageStudent(network, task), task.overlap).eval()
        height, width = torch.export.Dim("height"), torch.export.Dim("width")
        # Another size than the grid's, so that the exporter takes none of its sides for a constant.
        sides = [side + 13 for side in task.student.size]
        count = task.image.count
        bounds = torch.full((count, 2) if task.image.sequences else (2,), torch.nan, dtype=torch.float64)
        arguments = torch.rand(count, *sides), bounds
        options = {
            "input_names": ["pixels", "bounds"],
            "output_names": ["masks", "probabilities"],
            "dynamic_shapes": {"pixels": {1: height, 2: width}, "bounds": None},
        }
    else:
        model = network
        arguments = (torch.rand(1, task.image.count, *task.student.size),)
        options = {"input_names": ["window"], "output_names": ["probabilities"]}
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(model, arguments, dynamo=True, opset_version=OPSET, verbose=False, **options)
    finally:
        log.setLevel(level)
    assert program is not None  # without a path it is returned
    atomic_write(path, program.model_proto.SerializeToString())
