"""Certificates of outputs that exist, and maps of the differences that the position of tiles makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchloom.argument_checks import flag, instance, real_number, shown, whole_number
from patchloom.errors import ArgumentTypeError, SourceNotFoundError
from patchloom.image_stacks import Source
from patchloom.prediction.api import PredictionPlan
from patchloom.prediction.certificate.certificate import Certificate
from patchloom.prediction.certificate.certifying import CertificateOptions, certify_results, check_certifiable
from patchloom.prediction.certificate.regions import DEFAULT_REGIONS
from patchloom.prediction.certificate.stored import read_stored_plan, store_certificate
from patchloom.prediction.models.devices import Precision
from patchloom.prediction.models.model import Model, describe
from patchloom.prediction.models.prepare import prepare_model
from patchloom.prediction.output.claim import result_paths
from patchloom.prediction.run import complete_plan
from patchloom.prediction.survey import open_again, survey_images


def certify(
    output: Any,
    model: Model | Sequence[Model],
    sources: Source | Sequence[Source] | None = None,
    *,
    plan: PredictionPlan | None = None,
    tolerance: float | None = None,
    n_regions: int = DEFAULT_REGIONS,
    seed: int = 0,
    device: str | Sequence[str] | None = None,
    precision: Precision | None = None,
    write: bool = True,
) -> Certificate:
    """Compare the output of a run with predictions of larger tiles.

    Regions at seams, at corners where seams meet and at borders of the image are predicted once more, with tiles as large as memory
    and 5 % of the voxels of the run allow, and compared with what was written. `predict(certify=True)` does the same after a run.

    Parameters
    ----------
    output : str, Path or array, or sequence of arrays
        What was written: the `output` of the run, or the arrays that it returned.
    model : callable, or sequence of these
        The model of the run; see `predict`.
    sources : path, URL, array, ImageStack or sequence of these, optional
        The images of the run. If None, the files of the plan are opened again.
    plan : PredictionPlan, optional
        The plan of the run. If None, that in the certificate beside the output, or in its attributes.
    tolerance : float, optional
        The largest difference that is tolerated; see `predict`.
    n_regions : int
        Largest number of regions.
    seed : int
        The regions are a function of it and of the plan.
    device, precision
        As in `predict`.
    write : bool
        Whether the certificate is written beside the output and to its attributes, if it is a file.

    Returns
    -------
    Certificate
        What was compared and what was found.

    Raises
    ------
    ArgumentError
        If an argument has a value that is not allowed, or the model draws random numbers.
    SourceNotFoundError
        If no plan is given, and none is stored with the output; or if an image or the output is not found.
    SourceChangedError
        If an image or the output is another one than the plan is for.
    SourceError, ModelError, SinkError
        If an image cannot be read, the model fails, or the certificate cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> import patchloom as pl
    >>> image = np.random.default_rng(0).random((100, 100), np.float32)
    >>> planned = pl.plan(image, axes="YX", patch_size=32, overlaps=0)
    >>> def blur(batch):                                        # looks one voxel to each side
    ...     return (np.roll(batch, 1, -1) + batch + np.roll(batch, -1, -1)) / 3
    >>> found = pl.certify(planned.run(blur, sources=image, progress=False), blur, image, plan=planned)
    >>> found.passed, len(found.regions) > 0
    (False, True)
    """
    options = CertificateOptions(
        seed=whole_number("seed", seed, least=0, most=2**64 - 1),
        n_regions=whole_number("n_regions", n_regions, least=1, most=10_000),
        tolerance=None if tolerance is None else real_number("tolerance", tolerance, least=0),
    )
    flag("write", write)
    is_file = isinstance(output, (str, Path))
    planned = _plan_of(output, plan)
    check_certifiable(planned.request)
    prepared = prepare_model(model, device, precision)
    request, description = planned.request, describe(prepared)
    images = open_again(planned.survey, sources)
    _, stacks = survey_images(images, request.for_model(description), description, is_series=planned.survey.is_series)
    if not planned.survey.outputs or (request.normalize is not None and not planned.survey.normalizations):
        planned = PredictionPlan.of(complete_plan(request.for_model(description), planned.survey, stacks, prepared))
    results = result_paths(planned, Path(output)) if is_file else _arrays(planned, output)
    missing = [path for path in _files(results) if not path.exists()]
    if missing:
        raise SourceNotFoundError(f"{missing[0]} does not exist: give the output of a finished run of this plan")
    certificate = certify_results(planned, stacks, prepared, dict(enumerate(results)), options)
    if is_file and write:
        store_certificate(certificate, planned, output, results)
    return certificate


def _plan_of(output: Any, plan: Any) -> PredictionPlan:
    if plan is not None:
        known: PredictionPlan = instance("plan", plan, PredictionPlan, "plan returns one")
        return known
    if not isinstance(output, (str, Path)):
        raise ArgumentTypeError(
            "plan is not given, and output is not a file that contains it: give the plan of the run"
        )
    return PredictionPlan.from_json(read_stored_plan(output))


def _arrays(plan: PredictionPlan, output: Any) -> list[Any]:
    """Return the result of each image, of what `predict` returned."""
    results = list(output) if plan.survey.is_series and isinstance(output, (list, tuple)) else [output]
    if len(results) != len(plan.survey.stacks):
        raise ArgumentTypeError(
            f"output is {shown(output)}, and the plan is for {len(plan.survey.stacks)} images: give what the run returned"
        )
    return results


def _files(results: Sequence[Any]) -> list[Path]:
    every = [item for result in results for item in (result.values() if isinstance(result, dict) else [result])]
    return [item for item in every if isinstance(item, Path)]
