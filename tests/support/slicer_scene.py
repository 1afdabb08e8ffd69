"""Stand-ins for 3D Slicer's scene and its segmentations, with Slicer's rules for segments.

The rules, from Slicer's sources (vtkSlicerSegmentationsModuleLogic, vtkSegmentation):

- Export numbers the segments that it is given from 1 in their order, empty ones too, on the reference volume's grid;
  of segments that share a pixel the later one wins. Given none, it exports all.
- Import with a list of ids takes value i + 1 for the i-th of them, whatever values there are, and makes the segments
  that are missing. Import without a list makes a new segment of each value that is there.
- Segments are found by name whatever its case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from support.slicer_nodes import (
    DisplayNode,
    LabelMapNode,
    Mutable,
    Node,
    Observed,
    Points,
    Roi,
    StringArray,
    VolumeNode,
)
from support.slicer_qt import Widget


class LabelImage:
    """vtkOrientedImageData of one segment: bool (k, j, i), shared with the segment it was asked from."""

    def __init__(self) -> None:
        self.mask: NDArray[np.bool_] = np.zeros((0, 0, 0), bool)

    def GetDimensions(self) -> tuple[int, ...]:
        return self.mask.shape[::-1]

    def GetExtent(self) -> None:
        pass

    def SetScalarComponentFromDouble(self, i: int, j: int, k: int, component: int, value: float) -> None:
        # Of a voxel that is not there VTK only complains in its log.
        if all(0 <= at < size for at, size in zip((k, j, i), self.mask.shape, strict=True)):
            self.mask[k, j, i] = value


class Segment:
    def __init__(self, name: str, mask: NDArray[np.bool_]) -> None:
        self.name, self.mask = name, mask
        self._tags: dict[str, str] = {}

    def GetName(self) -> str:
        return self.name

    def SetTag(self, name: str, value: str) -> None:
        self._tags[name] = value

    def GetTag(self, name: str, value: Mutable) -> bool:
        value.value = self._tags.get(name, "")
        return name in self._tags


class SegmentationNode(Node):
    """vtkMRMLSegmentationNode and its vtkSegmentation in one."""

    def __init__(self) -> None:
        super().__init__()
        self.segments: dict[str, Segment] = {}
        self.volume: VolumeNode | None = None

    def GetSegmentation(self) -> SegmentationNode:
        return self

    def SetReferenceImageGeometryParameterFromVolumeNode(self, volume: VolumeNode) -> None:
        self.volume = volume

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.volume is not None
        return tuple(self.volume.image.GetSize()[::-1])

    def AddEmptySegment(self, id: str, name: str, color: Sequence[float] | None = None) -> str:
        while not id or id in self.segments:
            id = f"Segment_{len(self.segments) + 1}" if not id else id + "_1"
        self.segments[id] = Segment(name, np.zeros(self.shape, bool))
        return id

    def GetNumberOfSegments(self) -> int:
        return len(self.segments)

    def GetNthSegmentID(self, index: int) -> str:
        return list(self.segments)[index]

    def GetSegment(self, id: str) -> Segment | None:
        return self.segments.get(id)

    def GetSegmentIdBySegmentName(self, name: str) -> str:
        return next((id for id, s in self.segments.items() if s.name.lower() == name.lower()), "")

    def RemoveSegment(self, id: str) -> None:
        self.segments.pop(id, None)

    def GetBinaryLabelmapRepresentation(self, id: str, image: LabelImage) -> None:
        image.mask = self.segments[id].mask.copy()

    # what a user does, or a test looks at

    def named(self, name: str) -> NDArray[np.bool_]:
        """The mask of a segment, bool (k, j, i)."""
        return self.segments[self.GetSegmentIdBySegmentName(name)].mask

    def arrange(self, names: Sequence[str]) -> None:
        """Change the order of the segments."""
        ids = [self.GetSegmentIdBySegmentName(name) for name in names]
        self.segments = {id: self.segments[id] for id in [*ids, *(i for i in self.segments if i not in ids)]}


class SegmentationLogic:
    """slicer.modules.segmentations.logic()."""

    def ImportLabelmapToSegmentationNode(
        self, labelmap: LabelMapNode, node: SegmentationNode, ids: StringArray | None = None
    ) -> bool:
        values = sitk.GetArrayFromImage(labelmap.image)
        assert node.volume is not None and values.shape == node.shape, "the answer has another grid than the image"
        assert np.allclose(labelmap.ijk_to_ras, node.volume.ijk_to_ras, atol=1e-3), "the answer lies elsewhere"
        if ids is None:
            for value in np.unique(values[values > 0]):
                node.segments[node.AddEmptySegment("", f"Label_{value}")].mask = values == value
            return True
        for position, id in enumerate(ids):
            if id not in node.segments:
                node.AddEmptySegment(id, id)
            node.segments[id].mask = values == position + 1
        return True

    def ExportSegmentsToLabelmapNode(
        self, node: SegmentationNode, ids: StringArray, labelmap: LabelMapNode, volume: VolumeNode
    ) -> bool:
        values = np.zeros(volume.image.GetSize()[::-1], np.uint8)
        for position, id in enumerate(ids or node.segments):
            values[node.segments[id].mask] = position + 1
        labelmap.image = sitk.GetImageFromArray(values)
        labelmap.image.CopyInformation(volume.image)
        return True


class Effect:
    """Segment Editor's "Logical operators" on the chosen segment. What is drawn is taken from the other segments."""

    def __init__(self, editor: SegmentEditor) -> None:
        self._editor = editor

    def setParameter(self, name: str, value: Any) -> None:
        pass

    def selectedSegmentLabelmap(self) -> LabelImage:
        image = LabelImage()
        image.mask = self._editor.node.segments[self._editor.chosen].mask
        return image

    def modifySelectedSegmentByLabelmap(self, image: LabelImage, mode: str) -> None:
        segments = self._editor.node.segments
        before = segments[self._editor.chosen].mask
        segments[self._editor.chosen].mask = image.mask if mode == "set" else before | image.mask
        for id, segment in segments.items():
            # Not from one that is being imported at this moment; Slicer removes it right after.
            if id != self._editor.chosen and not segment.name.startswith("Label_"):
                segment.mask = segment.mask & ~image.mask


class SegmentEditor(Widget):
    """qMRMLSegmentEditorWidget."""

    node: Any = None
    chosen = ""

    def setSegmentationNode(self, node: SegmentationNode) -> None:
        self.node = node

    def setCurrentSegmentID(self, id: str) -> None:
        self.chosen = id

    def effectByName(self, name: str) -> Effect:
        return Effect(self)


CLASSES: dict[str, type[Node]] = {
    "vtkMRMLScalarVolumeNode": VolumeNode,
    "vtkMRMLLabelMapVolumeNode": LabelMapNode,
    "vtkMRMLSegmentationNode": SegmentationNode,
    "vtkMRMLMarkupsFiducialNode": Points,
    "vtkMRMLMarkupsROINode": Roi,
    "vtkMRMLMarkupsDisplayNode": DisplayNode,
    "vtkMRMLSegmentEditorNode": Node,
}


class Scene(Observed):
    StartCloseEvent, EndCloseEvent, NodeAddedEvent = "StartCloseEvent", "EndCloseEvent", "NodeAddedEvent"

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []

    def CreateNodeByClass(self, name: str) -> Node:
        return CLASSES[name]()

    def AddNewNodeByClass(self, name: str) -> Node:
        return self.AddNode(CLASSES[name]())

    def AddNode(self, node: Node) -> Node:
        self.nodes.append(node)
        self.invoke(self.NodeAddedEvent)
        return node

    def RemoveNode(self, node: Node) -> None:
        if node in self.nodes:
            self.nodes.remove(node)

    def GetSingletonNode(self, tag: str, name: str) -> Node | None:
        return self.GetFirstNodeByClass(name)

    def GetFirstNodeByClass(self, name: str) -> Any:
        return next(iter(self.of(name)), None)

    def of(self, name: str) -> list[Node]:
        return [node for node in self.nodes if isinstance(node, CLASSES[name])]

    def Clear(self, singletons: int = 0) -> None:
        self.invoke(self.StartCloseEvent)
        self.nodes = [node for node in self.nodes if type(node) is Node]  # the editor's stays
        self.invoke(self.EndCloseEvent)
