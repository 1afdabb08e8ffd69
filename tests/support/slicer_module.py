"""3D Slicer's MONAILabel module, the code that ships in the monailabel wheel, in a scene of stand-ins.

``open_module`` imports ``MONAILabel.py`` from where pip put it and opens its panel. Its widgets are those of its own
.ui file; all that it asks a server for goes through its own client, over HTTP. ``Panel`` is what a test holds.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nrrd
import numpy as np
import requests
import SimpleITK as sitk
from numpy.typing import NDArray

from support.slicer_nodes import LabelMapNode, Matrix4x4, Mutable, ParameterNode, StringArray, VolumeNode
from support.slicer_qt import SETTINGS, Quiet, Widget, load_ui, modules
from support.slicer_scene import LabelImage, Scene, SegmentationLogic, SegmentationNode, SegmentEditor

FOLDER = Path(sys.prefix) / "monailabel" / "plugins" / "slicer" / "MONAILabel"
NAMES = (
    *("slicer", "slicer.i18n", "slicer.util", "slicer.ScriptedLoadableModule", "qt", "ctk", "vtk", "SampleData"),
    *("sitkUtils", "vtkSegmentationCore", "MONAILabelLib", "MONAILabelLib.client", "MONAILabelLib.labelcolors"),
)


@dataclass
class Messages:
    """Messages of the module to its user by kind; ``errors`` with the traceback that it shows on demand."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    infos: list[str] = field(default_factory=list)


@dataclass
class Panel:
    """The module's panel: ``widget`` is its real ``MONAILabelWidget``, ``ui`` its widgets."""

    widget: Any
    scene: Scene
    messages: Messages
    folder: Path
    slicer: Any

    @property
    def ui(self) -> Any:
        return self.widget.ui

    @property
    def segments(self) -> SegmentationNode:
        """The segmentation on screen."""
        return self.widget._segmentNode  # type: ignore[no-any-return]

    @property
    def volume(self) -> VolumeNode:
        return self.widget._volumeNode  # type: ignore[no-any-return]

    def connect(self, url: str) -> None:
        """Type the server's address and press the green arrow."""
        self.ui.serverComboBox.setCurrentText(url)
        self.ui.fetchServerInfoButton.click()

    def ras(self, ijk: Sequence[float]) -> NDArray[Any]:
        return (self.volume.ijk_to_ras @ [*ijk, 1.0])[:3]

    def mark(self, ijk: Sequence[float], positive: bool = True) -> None:
        """Place a point on the image, for the selected structure."""
        node = self.widget.dgPositivePointListNode if positive else self.widget.dgNegativePointListNode
        node.AddControlPoint(list(self.ras(ijk)))

    def draw(self, name: str, mask: NDArray[Any]) -> None:
        """Draw a segment manually; it is added if there is none of this name."""
        if not self.segments.GetSegmentIdBySegmentName(name):
            self.segments.AddEmptySegment("", name)
        self.segments.segments[self.segments.GetSegmentIdBySegmentName(name)].mask = mask.copy()

    def quiet(self) -> None:
        """Check that no error was reported so far."""
        assert not self.messages.errors and not self.messages.warnings, self.messages


@contextmanager
def open_module(folder: Path) -> Iterator[Panel]:
    """Open the module in an empty scene; files that it writes go under ``folder``."""
    messages, scene = Messages(), Scene()
    SETTINGS.clear()
    before = {name: sys.modules.get(name) for name in NAMES}
    stand_ins = _modules(scene, messages, folder)
    sys.modules.update(stand_ins)
    sys.path.insert(0, str(FOLDER))  # as Slicer does; the module's own library is imported from there
    try:
        spec = importlib.util.spec_from_file_location("slicers_monailabel", FOLDER / "MONAILabel.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        widget = module.MONAILabelWidget(None)
        widget.setup()
        yield Panel(widget, scene, messages, folder, stand_ins["slicer"])
    finally:
        sys.path.remove(str(FOLDER))
        for name, known in before.items():
            if known is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = known


@contextmanager
def connected_module(folder: Path, url: str) -> Iterator[Panel]:
    """``open_module``, connected to a server, in a folder of its own; *Next Sample* draws nothing by itself."""
    own = folder / "slicer"
    own.mkdir()
    with open_module(own) as panel:
        SETTINGS["MONAILabel/autoRunSegmentationOnNextSample"] = False
        panel.connect(url)
        yield panel


class _Observing:
    """VTKObservationMixin."""

    def __init__(self) -> None:
        self._tags: list[tuple[Any, Any]] = []

    def addObserver(self, node: Any, event: str, callback: Any) -> None:
        self._tags.append((node, node.AddObserver(event, callback)))

    def removeObserver(self, node: Any, event: str, callback: Any) -> None:
        for of, tag in list(self._tags):
            if of is node and tag == (event, callback):
                node.RemoveObserver(tag)
                self._tags.remove((of, tag))


class _ModuleWidget:
    """ScriptedLoadableModuleWidget."""

    def __init__(self, parent: Any = None) -> None:
        self.parent = Widget()
        self.parent.isEntered = True
        self.layout = Quiet()

    def setup(self) -> None:
        pass

    def resourcePath(self, name: str) -> str:
        return str(FOLDER / "Resources" / name)


def _modules(scene: Scene, messages: Messages, folder: Path) -> dict[str, ModuleType]:
    parameters = ParameterNode()

    class Logic:
        def getParameterNode(self) -> ParameterNode:
            return parameters

    def load(path: str, name: str | None = None) -> VolumeNode:
        """Read an image with ITK, as Slicer does; a flat one gets a third axis."""
        image = sitk.ReadImage(path)
        node = VolumeNode(name or Path(path).name.split(".")[0])
        node.image = sitk.JoinSeries(image) if image.GetDimension() == 2 else image
        scene.AddNode(node)
        return node

    def push(image: Any, name: Any, className: str) -> LabelMapNode:
        node = LabelMapNode()
        node.image = sitk.JoinSeries(image) if image.GetDimension() == 2 else image
        scene.AddNode(node)
        return node

    def save(node: Any, path: str) -> None:
        if isinstance(node, SegmentationNode):
            write_segmentation(node, path)
        else:
            sitk.WriteImage(node.image, path)

    def setting(key: str, default: Any = None, converter: Any = None) -> Any:
        value = SETTINGS.get(key, default)
        return converter(value) if converter and value is not None else value

    class SampleDataLogic:
        def downloadFromURL(self, nodeNames: str, fileNames: str, uris: str, checksums: str | None) -> list[VolumeNode]:
            response = requests.get(uris, timeout=60)
            response.raise_for_status()
            path = folder / fileNames
            path.write_bytes(response.content)
            return [load(str(path), nodeNames)]

    util = ModuleType("slicer.util")
    util.__dict__.update(
        settingsValue=setting, toBool=lambda value: str(value).lower() in ("true", "1"), loadVolume=load, saveNode=save,
        tempDirectory=lambda name: str(folder), VTKObservationMixin=_Observing, mainWindow=Quiet(),
        loadUI=lambda path: load_ui(path, {"qMRMLSegmentEditorWidget": SegmentEditor}),
        childWidgetVariables=lambda widget: widget.children, createProgressDialog=lambda **_: Widget(),
        getNodesByClass=lambda name: scene.of(name), confirmOkCancelDisplay=lambda *args, **_: True,
        errorDisplay=lambda text, detailedText="": messages.errors.append(f"{text}\n{detailedText}"),
        warningDisplay=messages.warnings.append,
        infoDisplay=lambda text, detailedText="": messages.infos.append(f"{text}\n{detailedText}"),
    )  # fmt: skip
    layout = SimpleNamespace(sliceWidget=lambda name: SimpleNamespace(sliceLogic=lambda: slice_logic))
    slice_logic = SimpleNamespace(offset=0.0, GetSliceOffset=lambda: slice_logic.offset)
    slicer = ModuleType("slicer")
    slicer.__dict__.update(
        util=util, mrmlScene=scene, app=SimpleNamespace(layoutManager=lambda: layout, processEvents=lambda: None),
        slice_logic=slice_logic, vtkOrientedImageData=LabelImage,
        modules=SimpleNamespace(segmentations=SimpleNamespace(logic=SegmentationLogic)),
        vtkMRMLSegmentEditorNode=SimpleNamespace(OverwriteNone=2),
        vtkMRMLMarkupsNode=SimpleNamespace(PointPositionDefinedEvent="PointPositionDefinedEvent"),
        qSlicerSegmentEditorAbstractEffect=SimpleNamespace(ModificationModeSet="set", ModificationModeAdd="add"),
        vtkSlicerSegmentationsModuleLogic=SimpleNamespace(
            MODE_REPLACE=0, SetBinaryLabelmapToSegment=lambda image, node, id, mode: setattr(
                node.segments[id], "mask", image.mask)),
    )  # fmt: skip
    made = {name: ModuleType(name) for name in NAMES if not name.startswith("MONAILabelLib")} | modules()
    made |= {"slicer": slicer, "slicer.util": util}
    made["slicer.i18n"].__dict__.update(tr=str, translate=lambda context, text: text)
    made["slicer.ScriptedLoadableModule"].__dict__.update(
        ScriptedLoadableModule=object, ScriptedLoadableModuleWidget=_ModuleWidget, ScriptedLoadableModuleLogic=Logic,
        ScriptedLoadableModuleTest=object,
    )  # fmt: skip
    made["vtk"].__dict__.update(
        vtkMatrix4x4=Matrix4x4, vtkStringArray=StringArray, mutable=Mutable,
        vtkCommand=SimpleNamespace(ModifiedEvent="ModifiedEvent"),
    )  # fmt: skip
    made["SampleData"].__dict__.update(SampleDataLogic=SampleDataLogic)
    made["sitkUtils"].__dict__.update(PushVolumeToSlicer=push)
    made["vtkSegmentationCore"].__dict__.update(
        vtkOrientedImageDataResample=SimpleNamespace(FillImage=lambda image, value, extent: image.mask.fill(value))
    )
    return made


def write_segmentation(node: SegmentationNode, path: str) -> None:
    """A .seg.nrrd as Slicer writes it: cut to what is drawn, segments that overlap in layers of their own."""
    layers: list[NDArray[Any]] = []
    counts: list[int] = []
    fields: dict[str, str] = {}
    for index, (id, segment) in enumerate(node.segments.items()):
        layer = next((n for n, taken in enumerate(layers) if not (taken > 0)[segment.mask].any()), len(layers))
        if layer == len(layers):
            layers.append(np.zeros(node.shape, np.uint8))
            counts.append(0)
        counts[layer] += 1
        layers[layer][segment.mask] = counts[layer]
        fields |= {f"Segment{index}_{key}": text for key, text in (
            ("ID", id), ("Name", segment.name), ("Layer", str(layer)), ("LabelValue", str(counts[layer])))}  # fmt: skip
    drawn = np.argwhere(np.any(layers, axis=0))
    low, high = (drawn.min(axis=0), drawn.max(axis=0) + 1) if len(drawn) else (np.zeros(3, int), np.ones(3, int))
    cut = np.stack([layer[tuple(map(slice, low, high))] for layer in layers], axis=-1)
    assert node.volume is not None
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ node.volume.ijk_to_ras
    directions = affine[:3, :3].T
    many = cut.shape[-1] > 1
    header = {
        "space": "left-posterior-superior",
        "space directions": np.vstack([np.full((1, 3), np.nan), directions]) if many else directions,
        "space origin": (affine @ [*low[::-1], 1.0])[:3],
        "kinds": ["list"] * many + ["domain"] * 3,
        "encoding": "gzip",
        **fields,
    }
    nrrd.write(path, cut if many else cut[..., 0], header, index_order="C")
