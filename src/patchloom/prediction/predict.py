"""Run a model over images of any size and put the predictions back together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from patchloom.argument_checks import file_path, flag, function
from patchloom.errors import PatchloomError, SeriesError, SinkError, SourceChangedError
from patchloom.geometry.blend_weights import BlendWindow
from patchloom.geometry.padding import Padding
from patchloom.geometry.tile_rule import Seams
from patchloom.image_stacks import ImageStack, Source, SourceWatch, is_series, open_stacks
from patchloom.local_paths import normalize_path
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.output_spec import OutputSpec
from patchloom.prediction.normalization.normalization import Method, Normalization, Per
from patchloom.prediction.normalization.request import NormalizationRequest, normalization_request
from patchloom.prediction.output.checks import check_dtype, check_outputs
from patchloom.prediction.output.claim import OutputClaim, claim_output, run_ledger
from patchloom.prediction.output.ledger import check_same, damaged
from patchloom.prediction.output.run_identity import RunIdentity, check_resumable
from patchloom.prediction.output.writer import OutputWriter, Result
from patchloom.prediction.output_inference import infer_outputs
from patchloom.prediction.planning.make_plan import plan, source_identity
from patchloom.prediction.planning.memory import check_memory_limit
from patchloom.prediction.planning.plan import PredictionPlan
from patchloom.prediction.postprocessing import Postprocessing
from patchloom.prediction.running.engine import Engine
from patchloom.prediction.running.image_report import ImageReport, report_images, show_reports
from patchloom.prediction.running.progress import show_progress, show_summary
from patchloom.prediction.skip_rules import SkipRule, check_skip_rule
from patchloom.sinks import OmeZarrVersion, Pyramid, check_pyramid, zarr_format_of

_UNLIMITED = 2**62
"""A memory limit for plans that are not run."""


def predict(
    model: Model,
    sources: Source | Sequence[Source],
    output: str | Path | None = None,
    *,
    axes: str | Sequence[str | None] | None = None,
    patch_size: Sequence[int] | None = None,
    overlaps: Sequence[int] | None = None,
    blend: BlendWindow | None = None,
    seams: Seams | None = None,
    origin_multiple: int | Sequence[int] | None = None,
    padding: Padding = "reflect",
    batch_size: int | None = None,
    dtype: Any = None,
    postprocess: str | Postprocessing | None = None,
    normalize: Method | Sequence[Normalization] | None = None,
    percentiles: Sequence[float] | None = None,
    per: Per | None = None,
    skip: SkipRule | None = None,
    fill: float = 0,
    memory_limit: int | None = None,
    pyramid: Pyramid | None = "auto",
    ome_zarr_version: OmeZarrVersion = "0.5",
    overwrite: bool = False,
    resume_anyway: bool = False,
    keep_going: bool = False,
    progress: bool = True,
    report: Callable[[Sequence[ImageReport]], None] | None = None,
) -> Any:
    """Predict images of any size, tile by tile.

    Memory does not grow with the image where the output is a file: it stays under `memory_limit`. A run that was killed or
    failed goes on where it was when it is started again in the same way, and ends in the same bytes.

    Parameters
    ----------
    model : callable
        Takes a batch `(B, C, (Z), Y, X)` in the sources' dtype and returns an array-like of that kind: any number of
        channels, any dtype; as large, or a whole number of times larger or smaller; with or without the margin that valid
        convolutions take away, which must be the same on both sides. A tuple, list or mapping of such arrays gives several
        outputs. The outputs are inferred by running the model on one tile. Where their size is not that of the tile, the model
        is run on a tile of another size, which tells scale from margin, and on a tile with one voxel changed, which shows a
        margin that is not the same on both sides. A model that declares its `scale` (`ModelDescription`) is taken at its word.
    sources : path, URL, array, ImageStack or sequence of these
        The images, as `open_stacks` takes them.
    output : str or Path, optional
        An `.ome.zarr`, `.ome.tif` or `.npy` to write; for a series a folder, which gets one `.ome.zarr` for each image.
        The path may be spelled as those of `sources`. If None, arrays are returned. Only OME-Zarr outputs can be resumed.
        Where the model has several outputs, each is written to a file of its own, with `-` and the output's name before the
        ending; characters that a file system may not allow, such as `/` and `:`, are written as in a URL (`%2F`, `%3A`).
    axes, patch_size, overlaps, blend, seams, origin_multiple, padding, batch_size, dtype, postprocess, normalize, percentiles, per, skip, fill, memory_limit
        As in `plan`.
    pyramid : {"auto", "mean", "mode", "nearest"} or None
        How a voxel of a lower level of an OME-Zarr is made from 2 voxels along each axis: their mean, the commonest of them
        (for labels) or the first. `"auto"` takes the mode of labels and the mean of intensities. Labels are the results of
        `argmax` and `threshold`, truth values, and integers that a model returns, unless these have 8 or 16 bits and the
        dtype of the batches it is given. `None` makes no lower levels.
    ome_zarr_version : {"0.5", "0.4"}
        Which OME-Zarr is written: 0.5 is Zarr v3 with shards, 0.4 is Zarr v2.
    overwrite : bool
        Whether an output that exists may be replaced, and an unfinished one be discarded. What exists stays whole until
        the new one is complete.
    resume_anyway : bool
        Whether an unfinished output is resumed although the model, an image or the version of Patchloom is another than the
        run was begun with, or cannot be identified: your word that the results are the same.
    keep_going : bool
        Whether the other images of a series are finished when one fails. With `normalize` all are measured beforehand, and
        one that cannot be read then ends the run before anything is written.
    progress : bool
        Whether to show progress on standard error, and at the end a table of the images of a series.
    report : callable, optional
        Told at the end what became of each image, one `ImageReport` for each; also where some failed and the others were
        finished.

    Returns
    -------
    array or Path, or list of these
        The image in its source's own axes (with more than one channel, a source without `C` gets one before its spatial
        axes), or where it was written; a mapping of these where the model has several outputs; a list, one for each image,
        where `sources` is a series.

    Raises
    ------
    GeometryError, AxesError, SourceError
        As in `plan`, before anything is written; also if `pyramid`, `ome_zarr_version` or `fill` make no sense.
    SinkError
        If the output exists, belongs to an unfinished run of another plan, model or image, or cannot be written; or if it
        is, contains or lies in anything that the run reads: sources, files behind arrays, masks of `skip`, files that the
        model has open.
    SourceChangedError
        If an image changes on disk while the run reads it.
    ModelError
        If the model fails or returns something unusable; the message says on which tile. Finished blocks are kept.
    SeriesError
        With `keep_going`, when all is done that could be, if images failed.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).integers(0, 255, (100, 80), np.uint8)
    >>> result = predict(lambda batch: batch, image, axes="YX", patch_size=(64, 64), progress=False)
    >>> bool((result == image).all()), result.dtype
    (True, dtype('uint8'))
    """
    function("model", model, "load_model makes one from a file")
    for name, value in (
        ("overwrite", overwrite),
        ("resume_anyway", resume_anyway),
        ("keep_going", keep_going),
        ("progress", progress),
    ):
        flag(name, value)
    if report is not None:
        function("report", report)
    check_skip_rule(skip)
    series = is_series(sources)
    request = normalization_request(normalize, percentiles, per)
    output = None if output is None else normalize_path(file_path("output", output, error=SinkError))
    check_pyramid(pyramid)
    zarr_format_of(ome_zarr_version)
    stacks = open_stacks(sources, axes)
    with claim_output(output, stacks, series=series, overwrite=overwrite, skip=skip, model=model) as claimed:
        masks = () if skip is None else skip.images
        watch = SourceWatch(stacks, masks, thoroughly=True)  # from before the first pixel is read
        identity = None if claimed.ledger is None else RunIdentity.of(model, [*stacks, *masks])
        if claimed.begun is not None and claimed.ledger is not None and identity is not None:
            check_resumable(claimed.ledger, claimed.begun, identity, resume_anyway=resume_anyway)
        begun = claimed.begun or {}
        settings: dict[str, Any] = {
            "model": model,
            "patch_size": patch_size,
            "overlaps": overlaps,
            "blend": blend,
            "seams": seams,
            "origin_multiple": origin_multiple,
            "padding": padding,
            "batch_size": batch_size,
            "dtype": dtype,
            "postprocess": postprocess,
            "skip": skip,
            "fill": fill,
            # Another limit would mean other blocks.
            "memory_limit": check_memory_limit(begun.get("memory limit") if memory_limit is None else memory_limit),
        }
        measured = _measured_before(claimed, stacks, request) if normalize is None or request is not None else []
        prepared = _planned(
            stacks,
            model,
            settings,
            normalize=measured or normalize,
            request=request,
            destinations=claimed.destinations,
            keep_going=keep_going,
        )
        may_replace = overwrite or begun.get("overwrite", False)
        check_outputs(
            prepared,
            claimed.destinations,
            claimed.inputs,
            overwrite=may_replace,
            unfinished=claimed.begun is not None,
        )
        written: dict[str, Any] = {"pyramid": pyramid, "version": ome_zarr_version}
        with run_ledger(claimed.ledger, prepared, identity, overwrite=overwrite, **written) as ledger:
            outputs = OutputWriter(
                prepared,
                claimed.destinations,
                spelled=claimed.spelled,
                ledger=ledger,
                lock=claimed.lock,
                overwrite=may_replace,
                watch=watch,
                **written,
            )
            results = run_plan(prepared, model, outputs, keep_going=keep_going, progress=progress, report=report)
    return results if series else results[0]


def _measured_before(
    claimed: OutputClaim, stacks: Sequence[ImageStack], request: NormalizationRequest | None
) -> list[Normalization]:
    """Take over what an unfinished run measured, if the same is asked for of the same images; else refuse, unmeasured."""
    if claimed.begun is None or claimed.ledger is None:
        return []
    before = claimed.begun["settings"]
    try:
        measured = [Normalization.from_dict(one) for one in before["normalization"]]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(claimed.ledger) from error
    if measured or request is not None:
        told = " and ".join(dict.fromkeys(str(NormalizationRequest.of(one)) for one in measured))
        identities = json.loads(json.dumps([source_identity(stack) for stack in stacks]))
        check_same(
            claimed.ledger,
            {"sources": before.get("sources"), "normalize": told or None},
            {"sources": identities, "normalize": None if request is None else str(request)},
        )
    return measured


def _planned(
    stacks: Sequence[ImageStack],
    model: Model,
    settings: Mapping[str, Any],
    *,
    normalize: Any,
    request: NormalizationRequest | None,
    destinations: Sequence[Path | None],
    keep_going: bool,
) -> PredictionPlan:
    """Plan the run: infer the outputs of the model, measure the images, and choose blocks that fit into memory.

    The outputs decide on the memory that a run needs, so the limit is checked when they are known.
    """
    to_measure = request if isinstance(normalize, str) else None
    numbers = normalize if to_measure is None else to_measure.unmeasured(stacks)
    prepared = plan(stacks, normalize=numbers, **{**settings, "memory_limit": _UNLIMITED})
    check_dtype(prepared, destinations)
    forms = declared_outputs(prepared)
    if to_measure is not None:
        # Measuring may take long: what does not fit even with a single output channel is refused before.
        plan(stacks, normalize=numbers, forms=forms, **settings)
        numbers = to_measure.measure(stacks, settings["memory_limit"])
        prepared = replace(prepared, normalizations=numbers)
    forms = forms or _learned_forms(prepared, model, settings, keep_going=keep_going)
    return plan(stacks, normalize=numbers, forms=forms, **settings)


def _learned_forms(
    prepared: PredictionPlan, model: Model, settings: Mapping[str, Any], *, keep_going: bool
) -> tuple[tuple[OutputSpec, ...], ...]:
    """Run one tile; where one image may fail, of the first image of each dtype that does not."""
    if not keep_going:
        return infer_outputs(prepared, model)
    learned: dict[Any, tuple[OutputSpec, ...]] = {}
    failed: dict[Any, PatchloomError] = {}
    for data_idx, stack in enumerate(prepared.images):
        if stack.data_dtype not in learned:
            numbers = prepared.normalizations[data_idx : data_idx + 1] or None
            alone = plan([stack], **{**settings, "normalize": numbers, "skip": None, "memory_limit": _UNLIMITED})
            try:
                learned[stack.data_dtype] = infer_outputs(alone, model)[0]
            except PatchloomError as error:
                failed.setdefault(stack.data_dtype, error)
    for dtype in failed.keys() - learned.keys():
        raise failed[dtype]
    return tuple(learned[stack.data_dtype] for stack in prepared.stacks)


def run_plan(
    prepared: PredictionPlan,
    model: Model,
    outputs: OutputWriter,
    *,
    keep_going: bool = False,
    progress: bool = True,
    report: Callable[[Sequence[ImageReport]], None] | None = None,
) -> list[Result]:
    """Run a plan into outputs that were made for it.

    Parameters
    ----------
    prepared : PredictionPlan
        What `plan` made for these sources and this model, with the forms of its outputs.
    model : callable
        As in `predict`.
    outputs : OutputWriter
        Where the blocks go.
    keep_going, progress, report
        As in `predict`.

    Returns
    -------
    list of array or Path, or mapping of these
        One result for each image.

    Raises
    ------
    SourceError, SinkError, ModelError, SeriesError
        As in `predict`; a note says how many blocks are kept for another run.
    """
    try:
        with outputs:
            outputs.finalize_complete()
            engine = Engine(prepared, model, outputs, keep_going=keep_going)
            total = prepared.n_tiles_computed if not outputs.n_kept else engine.count_tiles()
            outputs.start_clocks()
            with show_progress("tiles", total, shown=progress) as advance:
                engine.run(advance)
        reports = report_images(prepared, outputs, engine)
        if progress:
            show_summary(engine.times.seconds, engine.n_skipped, prepared.n_tiles)
            show_reports(reports)
        if report is not None:
            report(reports)
        _check_failures(prepared, outputs, engine.failures)
    except BaseException as error:
        if outputs.n_kept:
            how = (
                ", of the image as it was: to keep them, put it back and run the same again"
                if isinstance(error, SourceChangedError)
                else ": run the same again to go on"
            )
            error.add_note(f"{outputs.n_kept} of {prepared.n_blocks} blocks are finished and kept{how}")
        raise
    return [outputs.results[data_idx] for data_idx in range(len(prepared.stacks))]


def _check_failures(prepared: PredictionPlan, outputs: OutputWriter, failures: dict[int, PatchloomError]) -> None:
    if failures:
        listed = "\n  ".join(f"{prepared.stacks[data_idx].source}: {error}" for data_idx, error in failures.items())
        raise SeriesError(
            f"{len(failures)} of {len(prepared.stacks)} images failed, the others are done:\n  {listed}",
            [outputs.results.get(data_idx) for data_idx in range(len(prepared.stacks))],
        )


def declared_outputs(prepared: PredictionPlan) -> tuple[tuple[OutputSpec, ...], ...]:
    """Give the outputs for each image as the model declares them; nothing if it leaves anything open."""
    said = prepared.model
    if said.out_channels is None or said.out_dtype is None or said.scale is None:
        return ()
    form = OutputSpec(said.out_channels, np.dtype(said.out_dtype), said.scale, (0,) * len(said.scale))
    return ((form,),) * len(prepared.stacks)
