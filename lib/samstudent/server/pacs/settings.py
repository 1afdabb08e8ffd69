"""Settings of the connection to a PACS, from environment variables of the host and of samstudent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from monailabel.config import settings as host

from samstudent.errors import UserError
from samstudent.task import Task
from samstudent.util.environment import number, yes_or_no

#: Modalities with one volume in a series.
VOLUMES = ("CT", "MR", "PT")
#: Modalities with one case for each image: radiographs, ultrasound stills, photographs.
FILMS = ("CR", "DX", "MG", "RG", "PX", "IO", "XA", "RF", "US", "XC", "ES", "OP", "GM", "OT")
_FILTER = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER"


@dataclass(frozen=True)
class PacsSettings:
    """Settings; see docs/how-to/orthanc.md, "Settings"."""

    #: Modalities of cases.
    modalities: tuple[str, ...] = VOLUMES + FILMS
    #: Further QIDO-RS filters, e.g. {"BodyPartExamined": "WRIST"}.
    filters: dict[str, str] = field(default_factory=dict)
    #: Interval between two polls of the PACS, seconds.
    poll_seconds: float = 5.0
    #: Longest wait for data, seconds.
    timeout: float = 20.0
    #: Size of the image cache on disk, GB.
    cache_gb: float = 20.0
    #: Whether accepted pseudo labels are sent to the PACS.
    pseudo: bool = True
    #: Name and password, if the PACS requires them.
    login: tuple[str, str] | None = None

    @classmethod
    def from_environment(cls) -> PacsSettings:
        """Settings of the environment; raises UserError with the name of an invalid variable."""
        modalities, filters = _search_filter()
        # Older and newer names of the host for the same setting.
        username = host.MONAI_LABEL_DICOMWEB_USERNAME or host.MONAI_LABEL_DATASTORE_USERNAME
        password = host.MONAI_LABEL_DICOMWEB_PASSWORD or host.MONAI_LABEL_DATASTORE_PASSWORD
        return cls(
            modalities=modalities or cls.modalities,
            filters=filters,
            poll_seconds=number("SAMSTUDENT_PACS_POLL_SECONDS", cls.poll_seconds),
            timeout=number("SAMSTUDENT_PACS_TIMEOUT", cls.timeout),
            cache_gb=number("SAMSTUDENT_PACS_CACHE_GB", cls.cache_gb),
            pseudo=yes_or_no("SAMSTUDENT_PACS_PSEUDO_LABELS", cls.pseudo),
            login=(username, password) if username and password else None,
        )


def require_supported_task(task: Task) -> None:
    """Check that cases of a task can come from a PACS.

    Raises:
        UserError: the task has named channels.
    """
    if task.image.sequences:
        raise UserError(f"task {task.name}: named image.channels need a study folder; of a PACS each series is a case")


def require_supported(kind: str, studies: str) -> None:
    """Check the kind of a study: a folder, or a DICOMweb server.

    Args:
        kind: value of MONAI_LABEL_DATASTORE, by which the host selects XNAT or DSA.
        studies: path of the study folder, or URL.

    Raises:
        UserError: XNAT, DSA or Google Cloud Healthcare.
    """
    if kind.lower() in ("xnat", "dsa"):
        raise UserError(
            f"MONAI_LABEL_DATASTORE={kind}: {kind.upper()} is not supported; a study is a folder or a DICOMweb server. "
            "Unset the variable"
        )
    if "googleapis.com" in studies:
        raise UserError(
            f"--studies {studies}: Google Cloud is not supported; a study is a folder, or a DICOMweb server without a "
            "login or with a name and password"
        )


def _search_filter() -> tuple[tuple[str, ...], dict[str, str]]:
    """Modalities and further filters of the host's setting.

    The host's default {"Modality": "CT"} counts as not set: the host writes it into the environment of its processes,
    and it would hide all radiographs. CT alone is {"Modality": ["CT"]}.
    """
    filters: dict[str, Any] = dict(host.MONAI_LABEL_DICOMWEB_SEARCH_FILTER)
    if filters == {"Modality": "CT"}:
        return (), {}
    chosen = filters.pop("Modality", [])
    modalities = tuple([chosen] if isinstance(chosen, str) else chosen)
    if any(not isinstance(value, str) for value in (*modalities, *filters.values())):
        found = host.MONAI_LABEL_DICOMWEB_SEARCH_FILTER
        raise UserError(f"{_FILTER}={found}: values must be strings; of Modality a string or a list of strings")
    return modalities, filters
