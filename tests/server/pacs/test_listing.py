"""Series that are cases, and their ids."""

from __future__ import annotations

from samstudent.server.pacs.client import Instance, Series
from samstudent.server.pacs.listing import Reference, films, is_volume, multi_frame, volume


def series(modality: str, images: int) -> Series:
    return Series("1.2", "1.2.3", modality, images, {"Modality": modality, "PatientID": "p"})


def test_series_of_slices_are_volumes_and_radiographs_are_not() -> None:
    assert [is_volume(series(m, n)) for m, n in (("CT", 20), ("MR", 2), ("CT", 1), ("DX", 2), ("CR", 9))] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert volume(series("CT", 20)).case == "1.2.3"


def test_single_radiograph_has_the_id_of_its_series() -> None:
    (film,) = films(series("DX", 1), [Instance("1.2.3.1", 1, 1)], {})
    assert (film.case, film.image) == ("1.2.3", "1.2.3.1")


def test_several_radiographs_of_one_series_have_ids_of_their_own() -> None:
    two = [Instance("1.2.3.1", 1, 1), Instance("1.2.3.2", 2, 1)]
    assert [film.case for film in films(series("CR", 2), two, {})] == ["1.2.3.1", "1.2.3.2"]


def test_id_of_a_case_is_permanent() -> None:
    two = [Instance("1.2.3.1", 1, 1), Instance("1.2.3.2", 2, 1)]
    assert [film.case for film in films(series("CR", 2), two, {"1.2.3.1": "1.2.3"})] == ["1.2.3", "1.2.3.2"]


def test_clips_are_no_cases() -> None:
    mixed = [Instance("1.2.3.1", 1, 30), Instance("1.2.3.2", 2, 1)]
    assert [(film.case, film.image) for film in films(series("US", 2), mixed, {})] == [("1.2.3", "1.2.3.2")]


def test_multi_frame_file_of_a_series_is_a_volume() -> None:
    (found,) = multi_frame(series("MR", 1), [Instance("1.2.3.1", 1, 30)])
    assert (found.case, found.image) == ("1.2.3", "1.2.3.1")
    assert not multi_frame(series("CT", 1), [Instance("1.2.3.1", 1, 1)])


def test_reference_round_trip_is_lossless() -> None:
    (film,) = films(series("DX", 1), [Instance("1.2.3.1", 1, 1)], {})
    assert Reference.from_json(film.to_json()) == film
    info = film.info("http://pacs/dicom-web")
    assert info["RetrieveURL"] == "http://pacs/dicom-web/studies/1.2/series/1.2.3"
    assert (info["Modality"], info["PatientID"], info["SOPInstanceUID"]) == ("DX", "p", "1.2.3.1")
