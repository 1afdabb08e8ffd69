"""Listing of a folder: cases, their ids, and messages about other files."""

from __future__ import annotations

import json
import os
import socket
import unicodedata
from pathlib import Path

import pytest

from samstudent.errors import NotFound, UserError
from samstudent.imaging import folder as folders
from samstudent.imaging.case import image_extensions
from samstudent.imaging.file_names import IMAGES, LABELS, case_id, is_id, row_id, split_name
from samstudent.imaging.folder import images_folder, list_folder
from samstudent.imaging.remarks import sentences


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode("utf-8", "surrogateescape"))


def names(folder: Path, extensions: tuple[str, ...] = IMAGES) -> dict[str, str]:
    return {case: path.name for case, path in list_folder(folder, extensions).files.items()}


def said_of(folder: Path, name: str, extensions: tuple[str, ...] = IMAGES) -> str:
    (remark,) = [r for r in list_folder(folder, extensions).remarks if r.name == name]
    return remark.text


def test_extensions_are_those_that_can_be_read() -> None:
    assert set(IMAGES) == set(image_extensions())
    assert set(LABELS) == {*image_extensions(), ".seg.nrrd"}


def test_upper_case_and_long_extensions_are_split(tmp_path: Path) -> None:
    touch(tmp_path, "a.PNG", "b.Jpeg", "c.TIFF", "d.DCM", "e.NII.GZ", "f.nrrd", "1.2.840.png", "g.seg.nrrd.nii.gz")
    assert names(tmp_path) == {
        "a": "a.PNG",
        "b": "b.Jpeg",
        "c": "c.TIFF",
        "d": "d.DCM",
        "e": "e.NII.GZ",
        "f": "f.nrrd",
        "1.2.840": "1.2.840.png",
        "g.seg.nrrd": "g.seg.nrrd.nii.gz",
    }
    assert list_folder(tmp_path).remarks == []
    assert split_name("x.Seg.NRRD", LABELS) == ("x", ".Seg.NRRD") and split_name("x.Seg.NRRD", IMAGES)[1] == ""


def test_files_of_file_managers_are_ignored_silently(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".~lock.a.png#", ".tmp-x-a.png")
    touch(tmp_path / "__MACOSX", "._a.png")
    touch(tmp_path / ".samstudent", "a.png")
    touch(tmp_path, "datastore_v2.json", "datastore_v2.broken-20260101T000000.json", "split.csv", ".lock")
    (tmp_path / "labels").mkdir()
    listing = list_folder(tmp_path)
    assert list(listing.files) == ["a"] and listing.remarks == []


def test_segmentation_file_is_not_an_image(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a.seg.nrrd", "b.seg.nrrd")
    assert names(tmp_path) == {"a": "a.nii.gz"}
    (line,) = sentences(list_folder(tmp_path).remarks)
    assert line == "a.seg.nrrd, b.seg.nrrd: a segmentation, not an image; labels belong in labels/final"
    assert names(tmp_path, LABELS) == {"a": "a.seg.nrrd", "b": "b.seg.nrrd"}


@pytest.mark.parametrize(
    ("present", "used"),
    [
        (["a.jpg", "a.png"], "a.png"),
        (["a.png", "a.nii.gz", "a.dcm"], "a.nii.gz"),
        (["a.PNG", "a.png"], "a.PNG"),
        (["a.tif", "a.tiff"], "a.tif"),
    ],
)
def test_among_equal_ids_the_documented_order_decides(tmp_path: Path, present: list[str], used: str) -> None:
    touch(tmp_path, *present)
    assert names(tmp_path) == {"a": used}
    text = said_of(tmp_path, used)
    assert all(name in text for name in present)


@pytest.mark.parametrize("images_dir", [".", "images"])
def test_image_listed_by_the_server_takes_precedence(tmp_path: Path, images_dir: str) -> None:
    images, final = tmp_path / images_dir, tmp_path / "labels" / "final"
    touch(images, "a.jpg", "a.png", "b.jpg", "b.png")
    touch(final, "a.png", "a.seg.nrrd")
    entry = {"image": {"ext": ".jpg", "info": {}}, "labels": {"final": {"ext": ".png", "info": {"name": "a.png"}}}}
    listed = {"images_dir": images_dir, "labels_dir": "labels", "objects": {"a": entry}}
    (tmp_path / "datastore_v2.json").write_text(json.dumps(listed))
    assert images_folder(tmp_path) == images
    assert names(images) == {"a": "a.jpg", "b": "b.png"}
    assert names(final, LABELS) == {"a": "a.png"}
    assert names(images) == {c: p.name for c, p in list_folder(images, listed={"a": "a.jpg"}).files.items()}
    (tmp_path / "datastore_v2.json").write_text("{torn")
    assert names(images)["a"] == "a.png"


STRANGE = [
    "a:b",
    "a?",
    "a*",
    'a"b',
    "a|b",
    "a<b",
    "a>b",
    "a\\b",
    " a",
    "a ",
    "a.",
    "a\nb",
    "a\tb",
    "x" * 220,
    "é" * 120,
]


@pytest.mark.parametrize("stem", STRANGE)
def test_invalid_file_name_gets_a_safe_id(tmp_path: Path, stem: str) -> None:
    touch(tmp_path, f"{stem}.png")
    ((case, path),) = list_folder(tmp_path).files.items()
    assert path.name == f"{stem}.png" and is_id(case)
    assert case == case_id(stem) == case_id(case) == row_id(f"{stem}.png")
    (remark,) = list_folder(tmp_path).remarks
    assert repr(case) in remark.text and not remark.is_fault
    touch(tmp_path / "labels", f"{stem}.seg.nrrd")
    assert list(list_folder(tmp_path / "labels", LABELS).files) == [case]  # a label named like its image finds it
    assert "\n" not in sentences([remark])[0]


def test_safe_ids_of_different_names_differ() -> None:
    ids = [case_id(stem) for stem in [*STRANGE, "a_b", "a", "a_", "_a", "x" * 221, "é" * 121]]
    assert len(set(ids)) == len(ids)


def test_undecodable_file_names_are_reported(tmp_path: Path) -> None:
    touch(tmp_path, os.fsdecode(b"M\xfcller.png"), "b.png")
    listing = list_folder(tmp_path)
    assert list(listing.files) == ["b"]
    (remark,) = listing.remarks
    assert remark.is_fault and "not valid UTF-8" in remark.text
    json.dumps(sentences([remark])).encode()  # can be logged and sent


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_composed_and_decomposed_names_have_one_id(tmp_path: Path, form: str) -> None:
    name = unicodedata.normalize(form, "Müller é.png")
    touch(tmp_path, name)
    ((case, path),) = list_folder(tmp_path).files.items()
    assert case == unicodedata.normalize("NFC", "Müller é") and path.name == name and path.is_file()
    assert row_id(unicodedata.normalize("NFD", "Müller é")) == case
    assert list_folder(tmp_path).remarks == []


def test_both_forms_in_one_folder_are_the_same_id(tmp_path: Path) -> None:
    both = [unicodedata.normalize(form, "Müller.png") for form in ("NFC", "NFD")]
    touch(tmp_path, *both)
    listing = list_folder(tmp_path)
    assert len(listing.files) == 1 and len(listing.remarks) == 1


def test_bad_entry_does_not_affect_others(tmp_path: Path) -> None:
    touch(tmp_path, "good.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
    (tmp_path / "linked.png").symlink_to(tmp_path / "good.png")
    listing = list_folder(tmp_path)
    assert list(listing.files) == ["good", "linked"]
    faults = {remark.name: remark.text for remark in listing.remarks if remark.is_fault}
    assert faults.keys() == {"loop.png", "lost.png", "pipe.png", "s.png"}
    assert "circular" in faults["loop.png"] and "nowhere.png" in faults["lost.png"] and "pipe" in faults["pipe.png"]


def test_a_forbidden_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.png", "b.png")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.png") and access(path, mode))
    listing = list_folder(tmp_path)
    assert list(listing.files) == ["b"]
    (remark,) = listing.remarks
    assert remark.name == "a.png" and remark.is_fault and "permissions" in remark.text


def test_unreadable_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(folders.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be read: Permission denied"):
        list_folder(tmp_path)
    with pytest.raises(NotFound, match="nowhere"):
        list_folder(tmp_path / "nowhere")


def test_subfolders_and_other_files_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "notes.txt", "b.txt", ".hidden.png", "a.svs")
    touch(tmp_path / "more", *(f"{i}.png" for i in range(12)), "x.txt", "._1.png")
    touch(tmp_path / "images", "c.png")
    assert "subfolder with 12 images is not read: images other than DICOM lie flat" in said_of(tmp_path, "more")
    assert "subfolder with 1 images is not read" in said_of(tmp_path, "images")
    assert "rename" in said_of(tmp_path, ".hidden.png")
    lines = sentences(list_folder(tmp_path).remarks)
    assert any(line.startswith("a.svs, b.txt, notes.txt: no image by its name") for line in lines)


def test_dicom_without_extension_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    for name in ("IM0001", "1.2.840.113619"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
        assert "rename it to end in .dcm" in said_of(tmp_path, name)


def test_many_ignored_files_of_one_kind_are_one_line(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}.txt" for i in range(30)))
    (line,) = sentences(list_folder(tmp_path).remarks)
    assert "and 25 more" in line


def test_images_are_in_the_folder_or_in_its_subfolder_images(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.png")
    touch(tmp_path, "notes.txt", "._b.png", "c.seg.nrrd")
    assert images_folder(tmp_path) == tmp_path / "images"
    touch(tmp_path, "b.png")
    assert images_folder(tmp_path) == tmp_path


def test_single_file_is_a_case(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "scan")
    assert list(list_folder(tmp_path / "a.nii.gz").files) == ["a"]
    assert list(list_folder(tmp_path / "scan").files) == ["scan"]


@pytest.mark.parametrize(
    ("name", "files", "remarks"),
    [
        ("f_mac", {"a": "a.png", "b": "b.png"}, 0),
        ("f_same_id", {"a": "a.png"}, 1),
        ("n_seg_beside_image", {"a": "a.nii.gz"}, 1),
    ],
)
def test_shared_folders_are_listed(shared_cases: Path, name: str, files: dict[str, str], remarks: int) -> None:
    assert names(shared_cases / name) == files
    assert len(list_folder(shared_cases / name).remarks) == remarks


def test_label_with_a_decomposed_name_belongs_to_its_image(shared_cases: Path) -> None:
    study = shared_cases / "f_nfd_label"
    assert names(study).keys() == names(study / "labels" / "final", LABELS).keys()
