"""Certificates on disk: a JSON file beside the output, and the attributes of an OME-Zarr.

The file has the plan beside the certificate, so the output can be compared again. The attributes of an OME-Zarr have the plan, too,
unless it is of a series.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from patchloom.errors import SinkError, SourceNotFoundError
from patchloom.prediction.certificate.certificate import Certificate
from patchloom.prediction.planning.plan import Plan
from patchloom.sinks.publishing.destination import name_beside, sync_folder
from patchloom.sinks.write_errors import explain

_DOCUMENTS = ("zarr.json", ".zattrs")
"""Documents with the attributes of a group, of OME-Zarr 0.5 and 0.4."""


def certificate_path(output: str | Path) -> Path:
    """Return the path of the certificate of an output, or of all outputs in a folder.

    Parameters
    ----------
    output : str or Path
        The output, or the folder of a series.

    Examples
    --------
    >>> certificate_path("cells.ome.zarr").name
    'cells.ome.zarr.certificate.json'
    """
    return name_beside(output, ".certificate.json")


def store_certificate(certificate: Certificate, plan: Plan, output: str | Path, results: Sequence[Any]) -> None:
    """Write a certificate beside an output, and to the attributes of all OME-Zarr outputs.

    Parameters
    ----------
    certificate : Certificate
        The certificate.
    plan : Plan
        The plan of the run.
    output : str or Path
        The output, or the folder of a series.
    results : sequence of Path, or of mapping of these
        The paths of the outputs of each image.

    Raises
    ------
    SinkError
        If a file cannot be written.
    """
    values, plain = certificate.to_dict(), json.loads(plan.to_json())
    _write(certificate_path(output), {"certificate": values, "plan": plain})
    own = {"certificate": values} if plan.survey.is_series else {"certificate": values, "plan": plain}
    for path in _paths(results):
        document = _document(path)
        if document is not None:
            attributes = json.loads(document.read_text(encoding="utf-8"))
            group = attributes["attributes"] if document.name == "zarr.json" else attributes
            group["patchloom"] = {**group.get("patchloom", {}), **own}
            _write(document, attributes)


def discard_certificate(output: str | Path) -> None:
    """Remove the certificate of an output that was replaced.

    Parameters
    ----------
    output : str or Path
        The output, or the folder of a series.

    Raises
    ------
    SinkError
        If it cannot be removed.
    """
    path = certificate_path(output)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SinkError(f"cannot remove the certificate of the replaced output, {path}: {explain(error)}") from error


def read_stored_plan(output: str | Path) -> str:
    """Read the plan of a certified output, as JSON.

    Parameters
    ----------
    output : str or Path
        The output, or the folder of a series.

    Raises
    ------
    SourceNotFoundError
        If there is no certificate.
    SinkError
        If it cannot be read.
    """
    path = certificate_path(output)
    try:
        for place in (path, _document(Path(output))):
            if place is not None and place.exists():
                found = json.loads(place.read_text(encoding="utf-8"))
                own = found if place == path else found.get("attributes", found).get("patchloom", {})
                if "plan" in own:
                    return json.dumps(own["plan"])
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SinkError(f"the certificate of {output} cannot be read ({error}): give the plan of the run") from error
    raise SourceNotFoundError(
        f"{path} does not exist, so the plan of this output is not known: give it (plan=, --plan), or predict with certify=True (--certify)"
    )


def _paths(results: Sequence[Any]) -> Iterator[Path]:
    for result in results:
        for path in result.values() if isinstance(result, Mapping) else [result]:
            if isinstance(path, (str, Path)):
                yield Path(path)


def _document(output: Path) -> Path | None:
    """Return the file with the attributes of an OME-Zarr; None for other outputs."""
    return next((output / name for name in _DOCUMENTS if (output / name).is_file()), None)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file so that there is always the old one or the new one."""
    begun = path.with_name(path.name + ".partial")
    try:
        with begun.open("w", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=2, allow_nan=False))
            file.flush()
            os.fsync(file.fileno())
        begun.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise SinkError(f"cannot write {path}: {explain(error)}") from error
