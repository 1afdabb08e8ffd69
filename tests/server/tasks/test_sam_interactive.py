"""Task ``sam`` through the host's interface: files in, label map and result out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from samstudent.errors import NotFound, UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.sam import lite_medsam
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.prompts import Prompt
from samstudent.server.tasks.sam_interactive import SamInteractiveTask
from samstudent.task import Task

SHAPE = (6, 64, 80)
FLAT = Task(name="flat", dimension=2, structures=["radius", "ulna"], overlap=True)
SOLID = Task(name="solid", dimension=3, structures=["anterior", "posterior"], student={"size": (16, 16, 16)})


class BoxFiller:
    """SAM that fills the box, with 64 x 64 low-resolution logits."""

    name, digest, embedding_digest, preprocessing = "lite_medsam", "0" * 64, "0" * 64, "test"

    def __init__(self) -> None:
        self.embedded: list[np.ndarray] = []

    def embed(self, image: np.ndarray) -> Embedding:
        self.embedded.append(image)
        height, width = image.shape[:2]
        return Embedding(np.zeros((1, 256, 16, 16), np.float32), (height, width), (height, width), max(height, width))

    def decode_many(self, embedding: Embedding, prompts: list[Prompt]) -> list[DecodedMask]:
        return [self.decode(embedding, prompt) for prompt in prompts]

    def decode(self, embedding: Embedding, prompt: Prompt) -> DecodedMask:
        logits = np.full((embedding.side, embedding.side), -5, dtype=np.float32)
        x0, y0, x1, y1 = (round(v) for v in prompt.box)
        logits[y0 : y1 + 1, x0 : x1 + 1] = 5
        return DecodedMask(logits, 0.875, embedding.frame)


@pytest.fixture
def sam() -> BoxFiller:
    return BoxFiller()


@pytest.fixture
def flat(sam: BoxFiller, tmp_path: Path) -> SamInteractiveTask:
    return SamInteractiveTask(FLAT, lambda: sam, EmbeddingCache(tmp_path / "embeddings"))


@pytest.fixture
def solid(sam: BoxFiller, tmp_path: Path) -> SamInteractiveTask:
    return SamInteractiveTask(SOLID, lambda: sam, EmbeddingCache(tmp_path / "embeddings"))


@pytest.fixture
def film(tmp_path: Path) -> str:
    path = tmp_path / "film.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 60000, (64, 80)).astype(np.uint16)).save(path)
    return str(path)


def volume(path: Path, affine: np.ndarray) -> str:
    """A NIfTI file of 80 x 64 x 6 voxels (i, j, k)."""
    data = np.random.default_rng(0).normal(100, 20, SHAPE[::-1]).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return str(path)


@pytest.fixture
def scan(tmp_path: Path) -> str:
    return volume(tmp_path / "scan.nii.gz", np.diag([-1.0, -1.0, 3.0, 1.0]))


def test_info_has_the_fields_that_both_panels_read(flat: SamInteractiveTask) -> None:
    info = flat.info()
    assert (info["type"], info["dimension"]) == ("deepgrow", 2)
    assert info["labels"] == {"radius": 1, "ulna": 2}
    assert info["description"]
    assert flat.is_valid()
    json.dumps(info)


def test_box_on_a_radiograph_decodes_the_structure(flat: SamInteractiveTask, film: str) -> None:
    file, result = flat({"model": "sam", "image": film, "label": "ulna", "roi": [10, 30, 20, 40, 0, 0]})
    try:
        assert file.endswith(".png")
        values = np.asarray(Image.open(file))
        assert values.shape == (64, 80)
        assert set(np.unique(values)) == {0, 2}
        assert np.argwhere(values).min(axis=0).tolist() == [20, 10]
        assert np.argwhere(values).max(axis=0).tolist() == [40, 30]
    finally:
        Path(file).unlink()
    assert result["label_names"] == dict(FLAT.structures)
    (drawn,) = result["structures"]
    assert drawn.pop("sam") == BoxFiller.digest
    box = {"prompts": [{"box": [10, 20, 30, 40]}], "predicted_iou": 0.875}
    assert drawn == {"name": "ulna", "slice": 0, "present": True} | box
    assert set(result["latencies"]["transform"]) >= {"read", "embed", "decode"}
    json.dumps(result)


def test_active_sam_decodes_task_structures_and_plain_sam_others(film: str, tmp_path: Path) -> None:
    adapted, plain, later = BoxFiller(), BoxFiller(), BoxFiller()
    adapted.digest, later.digest = "a" * 64, "b" * 64
    in_force = [adapted]
    sam = SamInteractiveTask(FLAT, lambda: in_force[-1], EmbeddingCache(tmp_path / "embeddings"), lambda: plain)

    def used(label: str) -> str:
        file, result = sam({"image": film, "label": label, "roi": [10, 30, 20, 40, 0, 0]})
        Path(file).unlink()
        return result["structures"][0]["sam"]

    assert (used("ulna"), used("fracture")) == (adapted.digest, plain.digest)
    in_force.append(later)
    assert used("ulna") == later.digest


def test_nrrd_of_a_volume_for_ohif_is_uncompressed(solid: SamInteractiveTask, scan: str, tmp_path: Path) -> None:
    request = {"image": scan, "foreground": [[40, 30, 4]], "background": [], "restore_label_idx": False}
    request |= {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    file, result = solid(request)
    values, header = nrrd.read(file, index_order="C")
    Path(file).unlink()
    assert header["encoding"] == "raw"
    assert values.shape == SHAPE and values.dtype == np.uint8
    assert set(np.unique(values[4])) == {0, 1}
    assert not values[[0, 1, 2, 3, 5]].any()
    assert result["label_names"] == {"foreground": 1}


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SRA", "PIL"])
def test_result_is_on_the_grid_of_the_file_in_every_orientation(
    solid: SamInteractiveTask, tmp_path: Path, axes: str
) -> None:
    orientation = nibabel.orientations.axcodes2ornt(tuple(axes))
    affine = np.linalg.inv(nibabel.orientations.inv_ornt_aff(orientation, SHAPE[::-1])) @ np.diag([1.0, 2.0, 3.0, 1.0])
    image = volume(tmp_path / "scan.nii", affine)
    file, _ = solid({"image": image, "label": "posterior", "roi": [10, 30, 20, 40, 2, 2], "slice": 2})
    answer = nibabel.load(file)
    values = np.asarray(answer.dataobj)
    Path(file).unlink()
    assert np.allclose(answer.affine, nibabel.load(image).affine)
    expected = np.zeros(SHAPE[::-1], dtype=values.dtype)
    expected[10:31, 20:41, 2] = 2
    assert (values == expected).all()


def test_clicks_on_several_slices_change_those_slices_alone(solid: SamInteractiveTask, scan: str) -> None:
    points = [[40, 30, 1], [42, 30, 1], [20, 20, 4]]
    file, result = solid({"image": scan, "label": "anterior", "foreground": points})
    values = np.asarray(nibabel.load(file).dataobj).T
    Path(file).unlink()
    assert [s["slice"] for s in result["structures"]] == [1, 4]
    assert np.unique(np.nonzero(values)[0]).tolist() == [1, 4]
    assert values[1, 30, 40] == 1 and values[4, 20, 20] == 1


def test_deepedit_request_decodes_several_structures(flat: SamInteractiveTask, film: str) -> None:
    request = {"image": film, "radius": [[20, 20]], "ulna": [[60, 40]], "result_extension": ".seg.nrrd"}
    file, result = flat(request)
    masks = read_masks(file, FLAT, read_image(film).grid)
    Path(file).unlink()
    assert masks[0, 20, 20] and masks[1, 40, 60]
    assert not masks[0, 40, 60] and not masks[1, 20, 20]
    assert result["label_names"] == dict(FLAT.structures)


@pytest.mark.parametrize("extension", [".png", ".seg.nrrd"])
def test_unknown_segment_is_decoded(flat: SamInteractiveTask, film: str, extension: str) -> None:
    request = {"image": film, "label": "Segment_1", "roi": [10, 30, 20, 40, 0, 0], "result_extension": extension}
    file, result = flat(request)
    values = sitk.GetArrayFromImage(sitk.ReadImage(file))
    names = sitk.ReadImage(file)
    Path(file).unlink()
    assert set(np.unique(values)) == {0, 1}
    assert result["label_names"] == {"Segment_1": 1}
    if extension == ".seg.nrrd":
        assert names.GetMetaData("Segment0_Name") == "Segment_1"


def test_second_click_on_a_slice_runs_no_encoder(solid: SamInteractiveTask, scan: str, sam: BoxFiller) -> None:
    for point in ([40, 30, 4], [41, 31, 4], [40, 30, 2]):
        file, _ = solid({"image": scan, "foreground": [point]})
        Path(file).unlink()
    assert len(sam.embedded) == 2


def test_an_image_that_changed_on_disk_is_read_again(flat: SamInteractiveTask, film: str, sam: BoxFiller) -> None:
    request = {"image": film, "label": "ulna", "foreground": [[40, 30]]}
    Path(flat(request)[0]).unlink()
    Image.fromarray(np.full((64, 90), 7, dtype=np.uint8)).save(film)
    file, _ = flat(request)
    assert Image.open(file).size == (90, 64)
    Path(file).unlink()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"foreground": [], "background": [[1, 1, 0]]}, "only background points"),
        ({"foreground": []}, "no points"),
        ({"foreground": [[500, 1, 0]]}, "outside of the image"),
        ({"foreground": "x"}, "foreground must be"),
        ({"image": 5}, "image must be"),
        ({"image": None}, "image must be"),
        ({"label": "humerus", "radius": [[1, 1]]}, "humerus.*none of the task's structures"),
        ({"result_extension": ".jpg"}, "jpg"),
        ({"result_extension": "/../../x.png/"}, "png"),
        ({"result_extension": 7}, "7"),
    ],
)
def test_invalid_requests_are_named(flat: SamInteractiveTask, film: str, change: dict[str, Any], text: str) -> None:
    request = {"model": "sam", "image": film, "label": "ulna", "foreground": [[40, 30, 0]], "background": []}
    with pytest.raises(UserError, match=text):
        flat(request | change)


def test_parameters_of_the_host_are_ignored(flat: SamInteractiveTask, film: str) -> None:
    odd = {"device": 7, "logging": 3, "roi_size": "x", "skip_writer": True, "result_write_to_file": False, "labels": 1}
    file, _ = flat({"image": film, "label": "ulna", "foreground": [[40, 30, 0]]} | odd)
    assert Image.open(file).size == (80, 64)
    Path(file).unlink()


def test_missing_image_and_wrong_dimension_are_named(flat: SamInteractiveTask, scan: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nothing\.png"):
        flat({"image": str(tmp_path / "nothing.png"), "foreground": [[1, 1]]})
    with pytest.raises(UserError, match="dimension is 2"):
        flat({"image": scan, "foreground": [[1, 1, 1]]})


def test_click_on_a_synthetic_bone_with_the_real_model(tmp_path: Path) -> None:
    rows, columns = np.indices((200, 160))
    bone = ((columns - 70) / 22) ** 2 + ((rows - 110) / 30) ** 2 <= 1
    pixels = np.random.default_rng(1).normal(9000, 900, bone.shape) + 15000 * bone
    Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / "film.png")
    task = SamInteractiveTask(FLAT, lambda: lite_medsam.load("cpu"), EmbeddingCache(tmp_path / "embeddings"))
    file, result = task({"image": str(tmp_path / "film.png"), "label": "radius", "foreground": [[65, 120, 0]]})
    drawn = np.asarray(Image.open(file)) == 1
    Path(file).unlink()
    assert 2 * (drawn & bone).sum() / (drawn.sum() + bone.sum()) > 0.85
    assert 0.5 < result["structures"][0]["predicted_iou"] <= 1.1
