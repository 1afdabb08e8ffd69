"""How a PACS is talked to: environment variables, the host's own where it has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from monailabel.config import settings as host

from samstudent.errors import UserError
from samstudent.util.environment import number, yes_or_no

#: Modalities whose series of several images are one volume.
VOLUMES = ("CT", "MR", "PT")
#: Modalities whose every image is a case of its own: radiographs, ultrasound stills, photographs.
FILMS = ("CR", "DX", "MG", "RG", "PX", "IO", "XA", "RF", "US", "XC", "ES", "OP", "GM", "OT")
_FILTER = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER"


@dataclass(frozen=True)
class PacsSettings:
    """See docs/how-to/orthanc.md, "Settings"."""

    #: Which series are cases.
    modalities: tuple[str, ...] = VOLUMES + FILMS
    #: Further QIDO-RS filters, e.g. {"BodyPartExamined": "WRIST"}.
    filters: dict[str, str] = field(default_factory=dict)
    #: A look at the PACS every so many seconds.
    poll_seconds: float = 5.0
    #: The longest silence in an answer.
    timeout: float = 20.0
    #: Images are kept on disk up to about this much.
    cache_gb: float = 20.0
    #: Whether accepted pseudo labels go to the PACS.
    pseudo: bool = True
    #: Name and password, where the PACS asks for them.
    login: tuple[str, str] | None = None

    @classmethod
    def from_environment(cls) -> PacsSettings:
        """Raises UserError naming the variable that is wrong."""
        modalities, filters = _search_filter()
        # The host's older and newer names for the same.
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


def require_supported(kind: str, studies: str) -> None:
    """Check that a study is of a kind that this server has: a folder, or a DICOMweb server.

    Args:
        kind: value of MONAI_LABEL_DATASTORE, by which the host chooses XNAT or DSA.
        studies: path of the study folder, or the URL.

    Raises:
        UserError: it is XNAT, DSA or Google Cloud Healthcare.
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
    """The host's filter. Its default, CT alone, would hide every radiograph and counts as not set: the host writes it
    into the environment of its children, so that one cannot tell who has. CT alone is {"Modality": ["CT"]}."""
    filters: dict[str, Any] = dict(host.MONAI_LABEL_DICOMWEB_SEARCH_FILTER)
    if filters == {"Modality": "CT"}:
        return (), {}
    wanted = filters.pop("Modality", [])
    modalities = tuple([wanted] if isinstance(wanted, str) else wanted)
    if any(not isinstance(value, str) for value in (*modalities, *filters.values())):
        found = host.MONAI_LABEL_DICOMWEB_SEARCH_FILTER
        raise UserError(f"{_FILTER}={found}: values must be texts, of Modality a text or a list of texts")
    return modalities, filters
