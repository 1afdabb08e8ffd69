"""Models of a study's list: copied and compared, never changed in place."""

from __future__ import annotations

from collections.abc import Mapping, Set

from monailabel.datastore.local import ImageLabelModel, LocalDatastoreModel


def difference(before: LocalDatastoreModel, after: LocalDatastoreModel) -> tuple[dict[str, ImageLabelModel], Set[str]]:
    """The entries of ``after`` that are new or changed, by case id, and the ids of those that are gone."""
    # Mostly a few of many thousand: compared by identity first.
    other = [case for case, entry in after.objects.items() if before.objects.get(case) is not entry]
    changed = {case: after.objects[case] for case in other if before.objects.get(case) != after.objects[case]}
    return changed, before.objects.keys() - after.objects.keys()


def shallow_copy(model: LocalDatastoreModel) -> LocalDatastoreModel:
    """A model with a dictionary of its own, but the same entries."""
    copy: LocalDatastoreModel = model.model_copy(update={"objects": dict(model.objects)})
    return copy


def header_of(model: LocalDatastoreModel) -> Mapping[str, str]:
    """The fields of the host's list beside its objects."""
    return {
        "name": model.name,
        "description": model.description,
        "images_dir": model.images_dir,
        "labels_dir": model.labels_dir,
    }


def with_base_path(model: LocalDatastoreModel, base_path: str) -> LocalDatastoreModel:
    """A model that was read from a file, which does not hold its own place, with that place."""
    copy: LocalDatastoreModel = model.model_copy(update={"base_path": base_path})
    return copy
