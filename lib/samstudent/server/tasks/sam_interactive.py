"""``sam``: Segment Anything for a human's boxes and points, from Slicer's and OHIF's smart-edit panels.

It requires no student, so it is available for the first labels of a study.

The host has two types of models for smart edit. ``deepgrow`` with dimension 2 is the one with which both clients show
the required behaviour, also for volumes, slice by slice (requests of the clients: ``smart_edit``):

- Slicer offers background points only for deepgrow. With dimension 2 it replaces one slice of one segment;
  with dimension 3, or deepedit, it replaces complete segments: masks on other slices are lost.
- OHIF accepts any value as the structure that was clicked only for deepgrow, and changes only one slice only for
  dimension 2.

The result is a label map on the input's grid, 0 except on the requested slices. A structure has its value in the task;
a structure that is not in the task has value 1. ``label_names`` of the result contains the names of all values, also of
structures without a mask: Slicer assigns value i to the i-th name when it loads a saved result.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask

from samstudent.errors import UserError
from samstudent.imaging.case import Grid, read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.click_decoder import ClickDecoder
from samstudent.sam.clicks import mask_of_clicks
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import Mask
from samstudent.server.tasks.slice_geometry import RecentStacks, SliceStack
from samstudent.server.tasks.smart_edit import read_request
from samstudent.task import Task

#: What this task reads of a request; the rest (roi_size, logging, device, ...) is not passed on to the host's code.
_KEYS = (
    *("image", "model", "label", "foreground", "background", "roi", "slice"),
    *("result_extension", "result_compress"),
)


class SamInteractiveTask(BasicInferTask):  # type: ignore[misc]
    """The ``sam`` infer task.

    Args:
        task: the checked task.
        sam: function that returns the active SAM. Called at each request, because a round may activate another; not
            before, because the host's child processes build every task.
        plain: function that returns the plain SAM, for structures that are not in the task: the adapted one never saw
            any of them.
        clicks: function that returns the click decoder for a structure; None: SAM has none of its own.
        embeddings: the study's embedding cache: a click on a slice that was clicked on before takes no encoder.
    """

    def __init__(
        self,
        task: Task,
        sam: Callable[[], SamBackend],
        embeddings: EmbeddingCache,
        plain: Callable[[], SamBackend] | None = None,
        clicks: Callable[[str], ClickDecoder | None] = lambda structure: None,
    ) -> None:
        super().__init__(
            path=None,
            network=None,
            type=InferType.DEEPGROW,
            labels=dict(task.structures),
            dimension=2,
            description="Segment Anything: draws the structure that you click on or put a box around, slice by slice",
        )
        self._config.clear()  # the server chooses the device
        self.task = task
        self._sam = sam
        self._plain = plain or sam
        self._clicks = clicks
        self._embeddings = embeddings
        self._stacks = RecentStacks(lambda path: SliceStack.of(read_image(path, task.dimension), task.image))

    def is_valid(self) -> bool:
        return True

    def pre_transforms(self, data: Any = None) -> list[Callable[..., Any]]:
        return []

    def post_transforms(self, data: Any = None) -> list[Callable[..., Any]]:
        return []

    def __call__(self, request: Mapping[str, Any], callbacks: Any = None) -> tuple[str | None, dict[str, Any]]:
        """Draw the requested structures.

        Args:
            request: ``image`` (path), ``result_extension``, ``result_compress``, and the keys of ``read_request``.
            callbacks: the host's.

        Returns:
            Path of the label map, and the result: ``structures`` (for each structure and slice the prompts it was drawn
            with, SAM's predicted IoU and the digest of its weights), ``label_names`` (name -> value in the label map,
            in the order of the values), ``latencies`` in seconds.

        Raises:
            UserError: anything in the request or the image that is wrong.
        """
        if not isinstance(request.get("image"), str):
            raise UserError("image must be the path of an image")
        known = {key: request[key] for key in (*_KEYS, *self.task.names) if key in request}
        file, result = super().__call__(known, callbacks)
        # The host writes the labels of the task there, also if the segmented structure is unknown to it.
        result["label_names"] = result.pop("values")
        return file, result

    def run_inferer(self, data: dict[str, Any], convert_to_batch: bool = True, device: str = "cpu") -> dict[str, Any]:
        """Read, embed and decode: adds ``pred`` (a ``_LabelMap``), ``result`` and ``latencies`` of these three."""
        seconds: dict[str, float] = {}
        with _timed("read", seconds):
            stack = self._stacks.of(data["image_path"])
        requests = read_request(data, self.task.names, stack)
        task = _task_of([request.name for request in requests], self.task)
        masks = np.zeros((len(task.names), stack.count, *stack.size), dtype=bool)
        structures = []
        for request in requests:
            with _timed("embed", seconds):
                backend = self._sam() if request.name in self.task.structures else self._plain()
                embedding = self._embeddings.embed(backend, np.ascontiguousarray(stack.pixels[request.slice]))
            with _timed("decode", seconds):
                clicked = mask_of_clicks(backend, embedding, request.prompt, self._clicks(request.name))
            masks[task.structures[request.name] - 1, request.slice] = clicked.mask
            structures.append(
                {"name": request.name, "slice": request.slice, "sam": backend.digest, **clicked.as_json()}
            )
        data[self.output_label_key] = _LabelMap(stack.to_canonical(masks), stack.grid, task)
        data[self.output_json_key] = {"structures": structures, "values": dict(task.structures)}
        data["latencies"] = {name: round(value, 3) for name, value in seconds.items()}
        return data

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[str, dict[str, Any]]:
        """Write the label map where the host's temporary files lie; the host removes it after sending."""
        label: _LabelMap = data[self.output_label_key]
        compress = str(data.get("result_compress")).lower() in ("true", "1")
        extension = data.get("result_extension") or _extension_for(data["image_path"])
        with tempfile.TemporaryDirectory() as folder:
            # Its extension is a client's text: write_masks checks it before it becomes part of a kept file's name.
            path = Path(folder) / f"label{str(extension).replace('/', '_')}"
            write_masks(path, label.masks, label.task, label.grid, compress=compress)
            handle, result_file = tempfile.mkstemp(suffix=path.name.removeprefix("label"))
            os.close(handle)
            shutil.move(path, result_file)
        return result_file, data[self.output_json_key]


@dataclass(frozen=True)
class _LabelMap:
    """Masks (S, *spatial) of the structures of ``task``, on a grid."""

    masks: Mask
    grid: Grid
    task: Task


@contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add the seconds of a block under a name."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


def _task_of(drawn: list[str], task: Task) -> Task:
    """Task of the segmented structures: that of the server, or one with a single structure that is not in it."""
    unknown = sorted(set(drawn) - set(task.structures))
    if not unknown:
        return task
    if len(set(drawn)) > 1:
        raise UserError(f"label {unknown[0]!r} is none of the task's structures: {', '.join(task.names)}")
    return task.model_copy(update={"structures": {unknown[0]: 1}})


def _extension_for(path: str) -> str:
    """A format for labels that can be read wherever the image's can."""
    name = path.lower()
    if name.endswith((".nii", ".nii.gz")):
        return ".nii.gz"
    return ".png" if name.endswith((".png", ".jpg", ".jpeg", ".tif", ".tiff")) else ".nrrd"
