"""Stand-ins for the nodes of 3D Slicer's scene that are no segmentation: parameters, volumes, marked points, boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Matrix4x4:
    """vtkMatrix4x4, which is filled by others."""

    def __init__(self) -> None:
        self.rows = np.eye(4)

    def MultiplyDoublePoint(self, point: Sequence[float]) -> list[float]:
        return list(map(float, self.rows @ np.array(point)))


class StringArray(list[str]):
    InsertNextValue = list.append


class Mutable:
    """vtk.mutable: a text that a method sets."""

    def __init__(self, value: str = "") -> None:
        self.value = value

    def __str__(self) -> str:
        return self.value


class Observed:
    def __init__(self) -> None:
        self._observers: list[tuple[str, Callable[..., Any]]] = []

    def AddObserver(self, event: str, callback: Callable[..., Any]) -> tuple[str, Callable[..., Any]]:
        self._observers.append((event, callback))
        return self._observers[-1]

    def RemoveObserver(self, tag: Any) -> None:
        if tag in self._observers:
            self._observers.remove(tag)

    def invoke(self, event: str) -> None:
        for wanted, callback in list(self._observers):
            if wanted == event:
                callback(self, event)


class Node(Observed):
    made = 0

    def __init__(self, name: str = "") -> None:
        super().__init__()
        Node.made += 1
        self._name, self._id = name, f"{type(self).__name__}{Node.made}"
        self._display = DisplayNode() if not isinstance(self, DisplayNode) else None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args: None

    def GetID(self) -> str:
        return self._id

    def GetName(self) -> str:
        return self._name

    def SetName(self, name: str) -> None:
        self._name = name

    def GetDisplayNode(self) -> Any:
        return self._display


class DisplayNode(Node):
    active = -1

    def GetActiveControlPoint(self) -> int:
        return self.active


class ParameterNode(Node):
    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, str] = {}
        self._held, self._changed = False, False

    def GetParameter(self, name: str) -> str:
        return self._values.get(name, "")

    def SetParameter(self, name: str, value: str) -> None:
        if self._values.get(name, "") != value:
            self._values[name] = value
            self._changed = True
        if not self._held:
            self.EndModify(False)

    def StartModify(self) -> bool:
        before, self._held = self._held, True
        return before

    def EndModify(self, before: bool) -> None:
        self._held = before
        if self._changed and not before:
            self._changed = False
            self.invoke("ModifiedEvent")


class VolumeNode(Node):
    """An image of three axes, as Slicer holds flat ones, too."""

    image: Any = None

    def GetImageData(self) -> Any:
        return self.image

    @property
    def ijk_to_ras(self) -> NDArray[Any]:
        affine = np.eye(4)
        affine[:3, :3] = np.array(self.image.GetDirection()).reshape(3, 3) * np.array(self.image.GetSpacing())
        affine[:3, 3] = self.image.GetOrigin()
        return LPS_TO_RAS @ affine

    def GetIJKToRASMatrix(self, matrix: Matrix4x4) -> None:
        matrix.rows = self.ijk_to_ras

    def GetRASToIJKMatrix(self, matrix: Matrix4x4) -> None:
        matrix.rows = np.linalg.inv(self.ijk_to_ras)


class LabelMapNode(VolumeNode):
    pass


class Points(Node):
    """vtkMRMLMarkupsFiducialNode."""

    def __init__(self) -> None:
        super().__init__()
        self._points: list[list[float]] = []

    def AddControlPoint(self, ras: Sequence[float]) -> None:
        self._points.append(list(ras))
        self._display.active = len(self._points) - 1
        self.invoke("PointPositionDefinedEvent")

    def GetNumberOfControlPoints(self) -> int:
        return len(self._points)

    def GetNthControlPointPosition(self, index: int) -> list[float]:
        return self._points[index]

    def RemoveAllControlPoints(self) -> None:
        self._points = []


class Roi(Node):
    """vtkMRMLMarkupsROINode: a box in RAS mm; none until it is placed."""

    _center: list[float] | None = None
    _size: list[float] | None = None

    def place(self, corner: NDArray[Any], opposite: NDArray[Any]) -> None:
        self._center, self._size = list((corner + opposite) / 2), list(abs(opposite - corner))

    def GetControlPointPlacementComplete(self) -> bool:
        return self._center is not None

    def GetCenter(self, center: list[float]) -> None:
        center[:] = self._center or [0.0] * 3

    def GetSize(self) -> list[float]:
        return self._size or [0.0] * 3

    def RemoveAllControlPoints(self) -> None:
        self._center = None
