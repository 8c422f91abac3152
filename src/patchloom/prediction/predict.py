"""Run a model over images of any size and put the predictions back together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from patchloom.errors import PatchloomError, SeriesError, SinkError
from patchloom.geometry.blend_weights import BlendWindow
from patchloom.geometry.padding import Padding
from patchloom.geometry.tile_rule import Seams
from patchloom.image_stacks import ImageStack, Source, is_series
from patchloom.prediction.destinations import series_destinations
from patchloom.prediction.emptiness import SkipRule
from patchloom.prediction.engine import Engine, learn_forms
from patchloom.prediction.ledger import Ledger, ledger_path, read_header
from patchloom.prediction.make_plan import plan
from patchloom.prediction.models.model import Model
from patchloom.prediction.normalisation import Method, Normalisation
from patchloom.prediction.output_form import OutputForm
from patchloom.prediction.outputs import OmeZarrVersion, Outputs, Pyramid, Result
from patchloom.prediction.plan import PredictionPlan
from patchloom.prediction.progress import show_progress, show_summary
from patchloom.prediction.reductions import Reduction
from patchloom.sinks import SINK_SUFFIXES, OutputLock, check_apart, check_destination, output_kind


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
    origin_multiple: int | Sequence[int] = 1,
    padding: Padding = "reflect",
    batch_size: int = 1,
    dtype: Any = None,
    reduce: str | Reduction | None = None,
    normalise: Method | Sequence[Normalisation] | None = None,
    skip: SkipRule | None = None,
    fill: float = 0,
    memory_limit: int | None = None,
    pyramid: Pyramid | None = "mean",
    ome_zarr_version: OmeZarrVersion = "0.5",
    overwrite: bool = False,
    keep_going: bool = False,
    progress: bool = True,
) -> Any:
    """Predict images of any size, tile by tile.

    Memory does not grow with the image where the output is a file: it stays under `memory_limit`. A run that was killed or
    failed goes on where it was when it is started again in the same way, and ends in the same bytes.

    Parameters
    ----------
    model : callable
        Takes a batch `(B, C, (Z), Y, X)` in the sources' dtype and returns an array-like of that kind: any number of
        channels, any dtype; as large, or a whole number of times larger or smaller; with or without the margin that valid
        convolutions eat. A tuple, list or mapping of such arrays gives several outputs. One tile is run beforehand to see.
    sources : path, URL, array, ImageStack or sequence of these
        The images, as `open_stacks` takes them.
    output : str or Path, optional
        An `.ome.zarr`, `.ome.tif` or `.npy` to write; for a series a folder, which gets one `.ome.zarr` for each image.
        Arrays are returned where not given. Only an OME-Zarr can be gone on with after a kill.
    axes, patch_size, overlaps, blend, seams, origin_multiple, padding, batch_size, dtype, reduce, normalise, skip, fill, memory_limit
        As in `plan`.
    pyramid : {"mean", "nearest"} or None
        How the lower levels of an OME-Zarr are made; `"nearest"` for labels, `None` for none.
    ome_zarr_version : {"0.5", "0.4"}
        Which OME-Zarr is written: 0.5 is Zarr v3 with shards, 0.4 is Zarr v2.
    overwrite : bool
        Whether an output that exists may be replaced, and an unfinished one be discarded. What exists stays whole until
        the new one is complete.
    keep_going : bool
        Whether the other images of a series are finished when one fails.
    progress : bool
        Whether to show progress on standard error.

    Returns
    -------
    array or Path, or list of these
        The image in its source's own axes (with more than one channel, a source without `C` gets one before its spatial
        axes), or where it was written; a mapping of these where the model has several outputs; a list, one for each image,
        where `sources` is a series.

    Raises
    ------
    GeometryError, AxesError, SourceError
        As in `plan`, before anything is written.
    SinkError
        If the output exists, belongs to an unfinished run of another plan, would destroy a source, or cannot be written.
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
    series = is_series(sources)
    begun = None if output is None or overwrite else read_header(ledger_path(output))
    if begun is not None:
        memory_limit = memory_limit or begun["memory limit"]  # another one would mean other blocks
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
        "reduce": reduce,
        "skip": skip,
        "fill": fill,
        "memory_limit": memory_limit,
    }
    measured = [] if begun is None else [Normalisation.from_dict(one) for one in begun["settings"]["normalisation"]]
    prepared = plan(sources, axes=axes, normalise=measured or normalise, **settings)
    destinations = _destinations(prepared.stacks, output, series=series)
    with _claimed(output, destinations, prepared.stacks, overwrite=overwrite, begun=begun is not None) as lock:
        forms = declared_forms(prepared) or learn_forms(prepared, model)
        prepared = plan(prepared.stacks, normalise=prepared.normalisations or None, forms=forms, **settings)
        with _ledger(output, prepared, overwrite=overwrite) as ledger:
            results = run_plan(
                prepared,
                model,
                Outputs(
                    prepared,
                    destinations,
                    ledger=ledger,
                    lock=lock,
                    pyramid=pyramid,
                    version=ome_zarr_version,
                    overwrite=overwrite or (begun is not None and begun["overwrite"]),
                ),
                keep_going=keep_going,
                progress=progress,
            )
    return results if series else results[0]


def run_plan(
    prepared: PredictionPlan, model: Model, outputs: Outputs, *, keep_going: bool = False, progress: bool = True
) -> list[Result]:
    """Run a plan into outputs that were made for it.

    Parameters
    ----------
    prepared : PredictionPlan
        What `plan` made for these sources and this model, with the forms of its outputs.
    model : callable
        As in `predict`.
    outputs : Outputs
        Where the blocks go.
    keep_going, progress : bool
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
            outputs.finalise_complete()
            engine = Engine(prepared, model, outputs, keep_going=keep_going)
            total = prepared.n_tiles_computed if not outputs.n_kept else engine.count_tiles()
            with show_progress("tiles", total, shown=progress) as advance:
                engine.run(advance)
        if progress:
            show_summary(engine.times.seconds, engine.n_skipped, prepared.n_blocks)
        _check_failures(prepared, outputs, engine.failures)
    except BaseException as error:
        if outputs.n_kept:
            error.add_note(
                f"{outputs.n_kept} of {prepared.n_blocks} blocks are finished and kept: run the same again to go on"
            )
        raise
    return [outputs.results[data_idx] for data_idx in range(len(prepared.stacks))]


def _check_failures(prepared: PredictionPlan, outputs: Outputs, failures: dict[int, PatchloomError]) -> None:
    if failures:
        listed = "\n  ".join(f"{prepared.stacks[data_idx].source}: {error}" for data_idx, error in failures.items())
        raise SeriesError(
            f"{len(failures)} of {len(prepared.stacks)} images failed, the others are done:\n  {listed}",
            [outputs.results.get(data_idx) for data_idx in range(len(prepared.stacks))],
        )


def declared_forms(prepared: PredictionPlan) -> tuple[tuple[OutputForm, ...], ...]:
    """Give the outputs for each image as the model declares them; nothing if it leaves anything open."""
    said = prepared.model
    if said.out_channels is None or said.out_dtype is None or said.scale is None:
        return ()
    form = OutputForm(said.out_channels, np.dtype(said.out_dtype), said.scale, (0,) * len(said.scale))
    return ((form,),) * len(prepared.stacks)


def _destinations(stacks: Sequence[ImageStack], output: str | Path | None, *, series: bool) -> Sequence[Path | None]:
    if output is None:
        return [None] * len(stacks)
    if not series:
        output_kind(output)  # so that a name that asks for nothing is refused
        return [Path(output)]
    if str(output).lower().endswith(SINK_SUFFIXES):
        raise SinkError(
            f"output is {str(output)!r}, but the sources are a series: name a folder, which gets one .ome.zarr for each"
        )
    return series_destinations([stack.source for stack in stacks], Path(output))


@contextmanager
def _claimed(
    output: str | Path | None,
    destinations: Sequence[Path | None],
    stacks: Sequence[ImageStack],
    *,
    overwrite: bool,
    begun: bool,
) -> Iterator[OutputLock | None]:
    """Check all destinations and keep other runs away from them; a folder made for them is removed if it stays empty."""
    places = [destination for destination in destinations if destination is not None]
    if output is None or not places:
        yield None
        return
    with OutputLock(output) as lock, _folder(places[0].parent):
        for place in places:
            check_apart(place, [stack.source for stack in stacks])
            if not begun:
                check_destination(place, overwrite=overwrite)
        yield lock


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    made = not folder.exists() and folder.parent.is_dir()
    if made:
        folder.mkdir()
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def _ledger(output: str | Path | None, prepared: PredictionPlan, *, overwrite: bool) -> Iterator[Ledger | None]:
    """Open the ledger of a run; it goes when the run is complete, or when there is nothing in it to go on with."""
    series = output is not None and not str(output).lower().endswith(SINK_SUFFIXES)
    if output is None or not (series or output_kind(output).resumable):
        yield None
        return
    path = ledger_path(output)
    if overwrite:
        path.unlink(missing_ok=True)
    header = {
        "memory limit": prepared.memory_limit,
        "n_blocks": prepared.n_blocks,
        "n_images": len(prepared.stacks),
        "overwrite": overwrite,
        "settings": prepared.settings,
    }
    ledger = Ledger(path, header)
    try:
        yield ledger
    except BaseException:
        ledger.close() if ledger.blocks else ledger.remove()
        raise
    ledger.remove()
