"""Export of a student into a folder, in several formats."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args

from samstudent.export.bundle import write_bundle
from samstudent.export.description import ExportedRound, description_of
from samstudent.export.onnx_file import check_onnx_packages, write_onnx
from samstudent.export.plain_network import plain_network
from samstudent.export.torchscript import write_torchscript
from samstudent.student.predict import Student
from samstudent.util.files import atomic_write

Format = Literal["bundle", "onnx", "torchscript"]
FORMATS: tuple[Format, ...] = get_args(Format)

#: Scripts that predict with an exported ONNX file, by the dimension of the task.
_SCRIPTS = {2: "predict_onnx_image.py", 3: "predict_onnx_volume.py"}


def export_model(
    student: Student, model: Path, origin: ExportedRound, output: Path, formats: Collection[Format] = FORMATS
) -> list[Path]:
    """Export a student.

    Args:
        student: with the weights of ``model``.
        model: its model file.
        origin: study and round.
        output: folder; created if missing. Files of an earlier export are replaced.
        formats: formats to write.

    Returns:
        The written files, and the folder of the bundle.

    Raises:
        UserError: a package for a format is missing; nothing is written.
    """
    if "onnx" in formats:
        check_onnx_packages()
    task, network = student.task, plain_network(student)
    description = description_of(student, origin)
    output.mkdir(parents=True, exist_ok=True)
    written = [output / "model.json"]
    atomic_write(written[0], json.dumps(description, indent=2))
    if "onnx" in formats:
        write_onnx(output / "model.onnx", network, task)
        script = Path(__file__).with_name(_SCRIPTS[task.dimension])
        atomic_write(output / "predict_onnx.py", script.read_bytes())
        written += [output / "model.onnx", output / "predict_onnx.py"]
    if {"torchscript", "bundle"} & set(formats):
        with tempfile.TemporaryDirectory() as folder:
            torchscript = Path(folder) / "model.ts"
            write_torchscript(torchscript, network, task)
            if "torchscript" in formats:
                atomic_write(output / "model.ts", torchscript.read_bytes())
                written.append(output / "model.ts")
            if "bundle" in formats:
                write_bundle(output / task.name, model, torchscript, description, task)
                written.append(output / task.name)
    return written
