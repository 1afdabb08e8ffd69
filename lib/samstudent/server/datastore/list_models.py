"""Copies and comparison of the host's list models, which are never modified in place."""

from __future__ import annotations

from collections.abc import Mapping, Set

from monailabel.datastore.local import ImageLabelModel, LocalDatastoreModel


def difference(before: LocalDatastoreModel, after: LocalDatastoreModel) -> tuple[dict[str, ImageLabelModel], Set[str]]:
    """New and changed entries of ``after`` by case id, and the ids of removed ones."""
    # By identity first: few of many thousand entries differ.
    other = [case for case, entry in after.objects.items() if before.objects.get(case) is not entry]
    changed = {case: after.objects[case] for case in other if before.objects.get(case) != after.objects[case]}
    return changed, before.objects.keys() - after.objects.keys()


def shallow_copy(model: LocalDatastoreModel) -> LocalDatastoreModel:
    """Copy with its own dictionary, but the same entries."""
    copy: LocalDatastoreModel = model.model_copy(update={"objects": dict(model.objects)})
    return copy


def header_of(model: LocalDatastoreModel) -> Mapping[str, str]:
    """Fields of the host's list other than its objects."""
    return {
        "name": model.name,
        "description": model.description,
        "images_dir": model.images_dir,
        "labels_dir": model.labels_dir,
    }


def with_base_path(model: LocalDatastoreModel, base_path: str) -> LocalDatastoreModel:
    """Copy with a base path, which a file of the list does not contain."""
    copy: LocalDatastoreModel = model.model_copy(update={"base_path": base_path})
    return copy
