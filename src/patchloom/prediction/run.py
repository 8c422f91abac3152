"""From a request to a result: claim the output, look at the images, plan, and run the blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from patchloom.errors import ArgumentError, GeometryError, PatchloomError, SeriesError, SourceChangedError, StoppedError
from patchloom.geometry.checks import one_per_axis
from patchloom.image_stacks import ImageStack, SourceWatch, whole_stack
from patchloom.prediction.certificate.certifying import CertificateOptions, certify_results, check_certifiable
from patchloom.prediction.certificate.stored import discard_certificate, store_certificate
from patchloom.prediction.models.model import Model, describe
from patchloom.prediction.models.monte_carlo_model import MonteCarloModel
from patchloom.prediction.models.replicas import ReplicatedModel, replicas_of
from patchloom.prediction.models.rescaling.rescaled_model import RescaledModel
from patchloom.prediction.normalization.measuring import measure_images, n_voxels_read
from patchloom.prediction.output.checks import check_outputs
from patchloom.prediction.output.claim import claim_output, run_ledger
from patchloom.prediction.output.ledger import check_same, damaged
from patchloom.prediction.output.run_identity import RunIdentity, check_resumable
from patchloom.prediction.output.writer import OutputWriter, Result
from patchloom.prediction.output_inference import infer_outputs
from patchloom.prediction.planning.fit import check_fits, checked_layout, make_plan
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.planning.tile_layout import TileLayout
from patchloom.prediction.probed_sizes import with_probed_sizes
from patchloom.prediction.request import PredictionRequest, RunOptions
from patchloom.prediction.running.engine import Engine
from patchloom.prediction.running.image_report import report_images, show_reports
from patchloom.prediction.running.monitor import PATIENCE, RunMonitor
from patchloom.prediction.running.progress import show_summary, show_text
from patchloom.prediction.survey import Survey, survey_images
from patchloom.sinks import check_storable


def run_request(
    request: PredictionRequest,
    options: RunOptions,
    model: Model,
    images: Sequence[ImageStack],
    *,
    is_series: bool,
    planned: Plan | None = None,
) -> Any:
    """Run what was asked for: what can be refused is refused before the model runs and before anything is written.

    Parameters
    ----------
    request : PredictionRequest
        What is to be computed.
    options : RunOptions
        How it is written and reported.
    model : callable
        As in `predict`.
    images : sequence of ImageStack
        The images.
    is_series : bool
        Whether the result is a list.
    planned : Plan, optional
        The plan of the request, if it was made before.

    Returns
    -------
    array or Path, or list of these
        As `predict`.

    Raises
    ------
    ArgumentError, SourceError, SinkError, ModelError, SeriesError
        As `predict`.
    """
    one, *_ = replicas_of(model)  # all are the same model, so a run does not depend on the number of devices
    description = describe(one)
    request = request.for_model(description)
    if options.certify:
        check_certifiable(request)
    masks = () if request.skip is None else request.skip.images
    with (
        RunMonitor(progress=options.progress, stop=options.stop) as monitor,
        claim_output(options, images, is_series=is_series, skip=request.skip, model=one) as claim,
    ):
        if request.dtype is not None:
            check_storable(claim.destinations[0], request.dtype)
        watch = SourceWatch(images, masks, thoroughly=True)  # from before the first pixel is read
        identity = None if claim.ledger is None else RunIdentity.of(one, [*images, *masks], watch.full_fingerprints())
        if claim.unfinished is not None and claim.ledger is not None and identity is not None:
            check_resumable(claim.ledger, claim.unfinished, identity, resume_anyway=options.resume_anyway)
        states = [seen.digest for seen in watch.quick]
        survey, stacks = survey_images(images, request, description, is_series=is_series, states=states)
        if planned is not None:
            survey = _with_planned(survey, planned)
        settings = _settings(request, options, survey)
        if claim.ledger is not None and claim.unfinished is not None:
            check_same(claim.ledger, claim.unfinished["settings"], settings)
            plan = _unfinished_plan(claim.ledger, claim.unfinished, request)
            if planned is not None and is_complete(planned):
                check_same(claim.ledger, _blocks(plan), _blocks(planned))
            options = replace(options, overwrite=options.overwrite or claim.unfinished["overwrite"])
        elif planned is not None and is_complete(planned):
            plan = planned
        else:
            plan = complete_plan(request, survey, stacks, one, keep_going=options.keep_going, monitor=monitor)
            _show_choice(plan, options)
        check_outputs(plan, claim, overwrite=options.overwrite)
        monitor.check()
        header = {
            "n_blocks": plan.n_blocks,
            "n_images": len(stacks),
            "overwrite": options.overwrite,
            "settings": settings,
            **plan.decisions(),
            "identity": None if identity is None else identity.to_dict(),
        }
        with run_ledger(claim, header) as ledger:
            writer = OutputWriter(
                plan,
                stacks,
                claim.destinations,
                options,
                spelled=claim.spelled,
                ledger=ledger,
                lock=claim.lock,
                watch=watch,
                count_steps=partial(monitor.in_background, "pyramid"),
            )
            results = run_plan(plan, stacks, model, writer, options, monitor=monitor)
        if options.certify:
            _certify(plan, stacks, model, results, options, monitor=monitor)
        elif options.path is not None:
            discard_certificate(options.path)
    return results if is_series else results[0]


def _certify(
    plan: Plan,
    stacks: Sequence[ImageStack],
    model: Model,
    results: Sequence[Result],
    options: RunOptions,
    *,
    monitor: RunMonitor,
) -> None:
    """Compare the outputs with predictions of larger tiles; write, show and return what was found."""
    try:
        certificate = certify_results(
            plan,
            stacks,
            model,
            dict(enumerate(results)),
            CertificateOptions(tolerance=options.tolerance),
            check=monitor.check,
        )
        if options.path is not None:
            store_certificate(certificate, plan, options.path, results)
    except BaseException as error:
        error.add_note("the output is complete, but it was not certified")
        raise
    if options.progress is True:
        show_text(str(certificate))
    if callable(options.certify):
        options.certify(certificate)


def _show_choice(plan: Plan, options: RunOptions) -> None:
    if options.progress is True and plan.survey.chosen:
        show_text(plan.survey.chosen)


def _with_planned(survey: Survey, planned: Plan) -> Survey:
    """Return the survey of a plan, as far as it was complete; what the model declares may be known only now."""
    if is_complete(planned):
        return planned.survey
    normalizations = planned.survey.normalizations or survey.normalizations
    return replace(survey, memory_limit=planned.survey.memory_limit, normalizations=normalizations)


def _blocks(plan: Plan) -> dict[str, Any]:
    return {name: value for name, value in plan.decisions().items() if name != "survey"}


def is_complete(plan: Plan) -> bool:
    """Return whether nothing is left to be measured or inferred before a plan runs."""
    return bool(plan.survey.outputs) and (plan.request.normalize is None or bool(plan.survey.normalizations))


def complete_plan(
    request: PredictionRequest,
    survey: Survey,
    stacks: Sequence[ImageStack],
    model: Model | None,
    *,
    keep_going: bool = False,
    monitor: RunMonitor | None = None,
) -> Plan:
    """Measure the images, infer the outputs of the model, and plan.

    Parameters
    ----------
    request : PredictionRequest
        What is to be computed.
    survey : Survey
        What is known without reading pixels.
    stacks : sequence of ImageStack
        The series as the model is run on it.
    model : callable, optional
        The model. If None, its outputs are not inferred.
    keep_going : bool
        Whether the outputs may be inferred from other images if one fails.
    monitor : RunMonitor, optional
        Reports the progress of measuring, and may stop it. If None, nothing is reported.

    Raises
    ------
    ArgumentError, SourceError, ModelError, StoppedError
        As `predict`.
    """
    survey = with_probed_sizes(request, survey, model)
    layout = checked_layout(request, survey)
    normalize = request.normalize
    if normalize is not None and not isinstance(normalize, tuple) and not survey.normalizations:
        check_fits(layout)
        images, watching = [*map(whole_stack, stacks)], monitor or RunMonitor()
        with watching.phase("measuring", n_voxels_read(images, normalize), patience=PATIENCE) as advance:
            measured = measure_images(images, normalize, survey.memory_limit, advance)
        survey = replace(survey, normalizations=measured)
    if model is not None and not survey.outputs:
        layout = replace(layout, survey=survey)
        outputs = infer_outputs(layout, stacks, _at_its_pixels(model, layout), keep_going=keep_going)
        survey = replace(survey, outputs=outputs)
    return make_plan(request, survey)


def with_draws(model: Model, request: PredictionRequest) -> Model:
    """Return the model that a run uses: one that draws several times, if that was asked for.

    Parameters
    ----------
    model : callable
        The model.
    request : PredictionRequest
        What is to be computed.

    Raises
    ------
    ArgumentError
        If the draws would be postprocessed before the normalization of the image is undone.
    """
    if request.n_draws is None:
        return model
    declared = describe(model)
    step = replace(request, n_draws=None, denormalize=False).for_model(declared).postprocess
    if step is not None and (declared.denormalize if request.denormalize is None else request.denormalize):
        raise ArgumentError(
            f"postprocess is {step.identity!r}, and with n_draws it is applied to each draw, before the normalization is undone: "
            "give postprocess='none' or denormalize=False"
        )
    drawn = [MonteCarloModel(replica, request.n_draws, postprocess=step) for replica in replicas_of(model)]
    return drawn[0] if len(drawn) == 1 else ReplicatedModel(tuple(drawn))


def _at_its_pixels(model: Model, layout: TileLayout) -> Model:
    """Return a model that gets tiles in voxels of the images: the model itself, or one that resamples them for it."""
    steps = layout.survey.pixel_steps
    if steps is None:
        return model
    rescaled = [RescaledModel(replica, steps, layout.network_size) for replica in replicas_of(model)]
    return rescaled[0] if len(rescaled) == 1 else ReplicatedModel(tuple(rescaled))


def _settings(request: PredictionRequest, options: RunOptions, survey: Survey) -> dict[str, Any]:
    """Return what makes two runs the same, besides the model and the contents of the images, as plain values."""
    asked = request.to_dict()
    asked |= dict.fromkeys(request.declined)  # nothing is done, as if the model declared nothing
    del asked["memory_limit"]  # the plan of an unfinished run is kept, whatever memory there is now
    written = {"pyramid": options.pyramid, "version of OME-Zarr": options.version, "chunks": options.chunks}
    settings = {"sources": [facts.identity for facts in survey.stacks], **asked, **written}
    if request.region is not None:  # lengths depend on voxel sizes, which may be those of an array
        settings["region in voxels"] = [facts.region for facts in survey.stacks]
    if request.pixel_size is not None:
        settings["voxels for a pixel"] = survey.pixel_steps and list(map(str, survey.pixel_steps))
    for name, least in (("patch_size", 1), ("overlaps", 0), ("halo", 0), ("origin_multiple", 1), ("chunks", 1)):
        if settings[name] is not None:
            settings[name] = one_per_axis(name, settings[name], survey.n_dims, least=least)
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _unfinished_plan(ledger: Path, unfinished: Mapping[str, Any], request: PredictionRequest) -> Plan:
    """Return the plan of an unfinished run, if it fits into the memory that is allowed now."""
    try:
        plan = Plan.from_decisions(request, unfinished)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise damaged(ledger) from error
    if not is_complete(plan):
        raise damaged(ledger)
    if request.memory_limit is not None and plan.memory.total > request.memory_limit:
        raise GeometryError(
            f"memory_limit is {request.memory_limit} bytes, and the unfinished run needs {plan.memory.total}: allow more, or "
            "start afresh with overwrite=True (--overwrite)"
        )
    return plan


def run_plan(
    plan: Plan,
    stacks: Sequence[ImageStack],
    model: Model,
    writer: OutputWriter,
    options: RunOptions,
    *,
    monitor: RunMonitor,
) -> list[Result]:
    """Run a complete plan into outputs that were made for it.

    Parameters
    ----------
    plan : Plan
        The plan.
    stacks : sequence of ImageStack
        Its series.
    model : callable
        As in `predict`.
    writer : OutputWriter
        Where the blocks go.
    options : RunOptions
        How the run reports, and whether other images finish if one fails.
    monitor : RunMonitor
        Reports the progress, and may stop the run.

    Returns
    -------
    list of array or Path, or mapping of these
        One result for each image.

    Raises
    ------
    SourceError, SinkError, ModelError, SeriesError, StoppedError
        As in `predict`; a note contains the number of blocks that are kept for another run.
    """
    try:
        with writer:
            writer.finalize_complete()
            rescaled = _at_its_pixels(model, plan.layout)
            engine = Engine(plan, stacks, rescaled, writer, keep_going=options.keep_going, wait_for=monitor.wait_for)
            total = plan.n_tiles_computed if not writer.n_kept else engine.count_tiles()
            with monitor.phase("tiles", total, model_seconds=engine.model_seconds()) as advance:
                engine.run(advance)
        reports = report_images(plan, writer, engine)
        if options.progress is True:
            show_summary(engine.times.seconds, engine.n_skipped, plan.n_tiles)
            show_reports(reports)
        if options.report is not None:
            options.report(reports)
        _check_failures(plan, writer, engine.failures)
    except StoppedError:
        kept = (
            f"{writer.n_kept} of {plan.n_blocks} blocks are finished and kept: run the same again to resume"
            if writer.n_kept
            else "no block is finished and kept: run the same again to start afresh"
        )
        raise StoppedError(f"the run was stopped, and {kept}") from None
    except BaseException as error:
        if writer.n_kept:
            how = (
                ", of the image as it was: to keep them, put it back and run the same again"
                if isinstance(error, SourceChangedError)
                else ": run the same again to resume"
            )
            error.add_note(f"{writer.n_kept} of {plan.n_blocks} blocks are finished and kept{how}")
        raise
    return [writer.results[data_idx] for data_idx in range(len(stacks))]


def _check_failures(plan: Plan, writer: OutputWriter, failures: dict[int, PatchloomError]) -> None:
    if failures:
        listed = "\n  ".join(f"{plan.survey.stacks[data_idx].source}: {error}" for data_idx, error in failures.items())
        raise SeriesError(
            f"{len(failures)} of {len(plan.survey.stacks)} images failed, the others are done:\n  {listed}",
            [writer.results.get(data_idx) for data_idx in range(len(plan.survey.stacks))],
        )
