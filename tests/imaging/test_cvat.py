"""CVAT's annotations: masks of drawn shapes, and the message of each fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.imaging.cvat import CvatImage, read_cvat
from samstudent.task import load_task
from support.cvat_files import image, mask, polygon, write_cvat

SIZE = (12, 16)


def read_one(tmp_path: Path, *shapes: str, attribute: str | None = None) -> CvatImage:
    path = write_cvat(tmp_path / "a.xml", image("film.png", SIZE, shapes))
    return read_cvat([path], attribute)["film"]


def pixels(*places: tuple[slice | int, slice | int]) -> Any:
    found = np.zeros(SIZE, dtype=bool)
    for place in places:
        found[place] = True
    return found


def test_polygon_covers_pixels_with_their_centre_in_it(tmp_path: Path) -> None:
    whole = pixels((slice(3, 7), slice(2, 6)))
    assert np.array_equal(read_one(tmp_path, polygon()).masks(["bone"])[0], whole)
    # A border right of a pixel's centre includes it, one left of it does not.
    wide = "2.60,3.00;6.60,3.00;6.60,7.00;2.60,7.00"
    assert np.array_equal(read_one(tmp_path, polygon(wide)).masks(["bone"])[0], np.roll(whole, 1, axis=1))
    narrow = "1.60,3.00;6.40,3.00;6.40,7.00;1.60,7.00"
    assert np.array_equal(read_one(tmp_path, polygon(narrow)).masks(["bone"])[0], whole)


def test_polygon_of_the_whole_image_and_one_that_is_rounded_beyond_it(tmp_path: Path) -> None:
    for by in (0.0, 0.4):
        points = f"{-by},{-by};{16 + by},{-by};{16 + by},{12 + by};{-by},{12 + by}"
        assert read_one(tmp_path, polygon(points)).masks(["bone"]).all()


def test_run_length_mask_is_what_was_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.random(SIZE) < 0.4
    assert np.array_equal(read_one(tmp_path, mask(drawn)).masks(["bone"])[0], drawn)
    # Runs go along rows and begin with background: 2 of it, then 3 of the structure in a box of 2 rows and 3 columns.
    one = read_one(tmp_path, mask(pixels((slice(4, 6), slice(5, 8))), changes={"rle": "2, 3, 1"}))
    assert np.array_equal(one.masks(["bone"])[0], pixels((4, 7), (5, slice(5, 7))))


def test_structures_by_attribute_overlap_and_have_several_shapes(tmp_path: Path) -> None:
    found = read_one(
        tmp_path,
        polygon(Anatomie="Radius"),
        mask(pixels((slice(5, 9), slice(4, 9))), Seite="links", Anatomie="Ulna"),
        mask(pixels((0, 0)), Anatomie="radius"),
        polygon(Anatomie="Phalanx media II"),
        '<tag label="bone"/>',
        attribute="Anatomie",
    )
    radius, ulna, absent = found.masks(["Radius", "Ulna", "Os lunatum"])
    assert np.array_equal(radius, pixels((slice(3, 7), slice(2, 6)), (0, 0)))
    assert np.array_equal(ulna, pixels((slice(5, 9), slice(4, 9))))
    assert (radius & ulna).sum() == 4 and not absent.any()
    assert found.names() == {"Radius": 1, "Ulna": 1, "radius": 1, "Phalanx media II": 1}


def test_several_files(tmp_path: Path) -> None:
    first = write_cvat(
        tmp_path / "a.xml", image("upload/one.png", SIZE, [polygon()]), image("two.png", SIZE), image("no.jpg", (3, 4))
    )
    second = write_cvat(tmp_path / "b.xml", image("two.png", SIZE, [polygon()]), image("one.png", SIZE))
    found = read_cvat([first, second])
    assert {id: (i.file, len(i.shapes), i.size) for id, i in found.items()} == {
        "one": (first, 1, SIZE), "two": (second, 1, SIZE), "no": (first, 0, (3, 4)),
    }  # fmt: skip
    third = write_cvat(tmp_path / "c.xml", image("one.tif", SIZE, [polygon()]))
    with pytest.raises(UserError, match=r"c\.xml: image 'one\.tif' is annotated in .*a\.xml, too; remove"):
        read_cvat([first, third])
    twice = write_cvat(tmp_path / "d.xml", image("one.png", SIZE), image("one.png", SIZE))
    with pytest.raises(UserError, match=r"d\.xml: image 'one\.png' is there twice"):
        read_cvat([twice])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<ellipse label="bone"/>', r"shape 2: <ellipse> is not supported; expected <polygon> or <mask>"),
        (polygon("1,1;2,2"), r"shape 2: polygon of 'bone': has 2 points; a polygon has at least 3"),
        (polygon("1,1;2,2;17.5,3"), r"'bone': point 3, x 17\.5, y 3, is outside of .*; expected 0 to 16 and 0 to 12"),
        (polygon("1,1;2,2;3"), r"'bone': points: '3' is not a point; expected numbers x,y"),
        (polygon("1,1;2,2;3,inf"), r"points: '3,inf' is not a point"),
        (polygon(""), r"'bone': has no attribute 'points'"),
        (polygon(label=""), r"shape 2: polygon has no attribute 'label'"),
        (mask(pixels((4, 5)), changes={"rle": "0, 2"}), r"mask of 'bone': the runs of rle add up to 2 .*; expected 1,"),
        (mask(pixels((4, 5)), changes={"rle": "0, -1, 2"}), r"rle: '-1' is not a whole number"),
        (mask(pixels((4, 5)), changes={"left": "16"}), r"its box, left 16, top 4, 1 x 1 .* image of 16 x 12 pixels"),
        (mask(pixels((4, 5)), changes={"width": "0"}), r"its box, left 5, top 4, 0 x 1 pixels"),
        (mask(pixels((4, 5)), changes={"top": ""}), r"has no attribute 'top'"),
        (mask(pixels((4, 5)), changes={"rle": "9" * 5000}), r"rle: '9{40}' is not a whole number"),
    ],
)
def test_fault_of_a_shape(tmp_path: Path, shape: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"a\.xml: image film\.png: .*{message}") as caught:
        read_one(tmp_path, polygon(), shape)
    assert "\n" not in str(caught.value)


def test_shape_without_the_attribute_of_the_structure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shape 1: polygon of label 'bone' has no value of 'Anatomie'; it has Seite"):
        read_one(tmp_path, polygon(Seite="links"), attribute="Anatomie")
    with pytest.raises(UserError, match=r"has no value of 'Anatomie'; it has none"):
        read_one(tmp_path, polygon(), attribute="Anatomie")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ('name="f.png" height="5"', r"image f\.png: has no attribute 'width'"),
        ('name="f.png" height="5" width="0"', r"image f\.png: its size is 0 x 5; expected its width and height"),
        ('name="f.png" height="5" width="4.5"', r"image f\.png: width: '4\.5' is not a whole number"),
        ('name="f.png" height="999999" width="999999"', r"image f\.png: .*more than the limit"),
        ('width="5" height="5"', r"image 0: has no attribute 'name'"),
    ],
)
def test_fault_of_an_image(tmp_path: Path, attributes: str, message: str) -> None:
    path = write_cvat(tmp_path / "a.xml", f"<image {attributes}/>")
    with pytest.raises(UserError, match=rf"a\.xml: {message}"):
        read_cvat([path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid XML: no element found"),
        ("<annotations><image></annotations>", "not valid XML: mismatched tag.*'CVAT for images 1.1'"),
        ("PK\x03\x04", "not valid XML"),
        ('<?xml version="1.0" encoding="no-such"?><annotations/>', "not valid XML"),
        ("<coco/>", "its element is <coco>, not <annotations>"),
        ("<annotations/>", "has no <image>"),
        ("<annotations><track id='0'/></annotations>", "'CVAT for video 1.1'; export the task as 'CVAT for images 1.1"),
    ],
)
def test_file_of_another_kind(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(UserError, match=rf"a\.xml: .*{message}") as caught:
        read_cvat([tmp_path / "a.xml"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "declarations",
    [
        '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">',
        '<!ENTITY a SYSTEM "file:///etc/hostname"><!ENTITY b "&a;">',
        '<!ENTITY % a SYSTEM "http://127.0.0.1:9/a.dtd"> %a; <!ENTITY b "">',
    ],
)
def test_entities_are_refused(tmp_path: Path, declarations: str) -> None:
    text = write_cvat(tmp_path / "a.xml", image("film.png", SIZE, [polygon(Anatomie="&b;")])).read_text()
    (tmp_path / "a.xml").write_text(text.replace("<annotations>", f"<!DOCTYPE x [{declarations}]><annotations>"))
    with pytest.raises(UserError, match=r"a\.xml: has a document type declaration .*; remove it"):
        read_cvat([tmp_path / "a.xml"], "Anatomie")


def test_real_form_of_the_paper(shared_cases: Path) -> None:
    """The size of structures is that of the shapes: by the shoelace formula for polygons, by the runs for masks."""
    names = load_task("wrist").names
    found = read_cvat([shared_cases / "cvat" / "annotations.xml"], "Anatomie")
    assert list(found) == ["0399_0640929626_01_WRI-L1_M006", "0172_0304693626_01_WRI-R1_F014"]
    left, right = found.values()
    assert (left.size, right.size) == ((844, 513), (1724, 1247))
    areas = dict(zip(names, left.masks(names).sum(axis=(1, 2)).tolist(), strict=True))
    assert {name for name, area in areas.items() if not area} == {
        "Epiphyse Ulna", "Os lunatum", "Os pisiforme", "Os scaphoideum", "Os trapezium", "Os trapezoideum",
    }  # fmt: skip
    for name, shape in left.shapes:
        if name in names:
            assert areas[name] == sum(shape.runs[1::2])  # type: ignore[union-attr]
    assert right.names()["Radius"] == 4 and "Phalanx proximalis I" in right.names()
    ulna = next(shape for name, shape in right.shapes if name == "Ulna")
    x, y = ulna.points.T  # type: ignore[union-attr]
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert right.masks(["Ulna"]).sum() == pytest.approx(area, rel=0.01)
    assert right.masks(names).sum(axis=0).max() > 1
