"""The entry points: predict images of any size, or plan it without running anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from patchloom.argument_checks import flag
from patchloom.geometry.blend_weights import BlendWindow
from patchloom.geometry.padding import Padding
from patchloom.geometry.tile_rule import Seams
from patchloom.image_stacks import Source, is_series, open_stacks
from patchloom.prediction.certificate.certificate import Certificate
from patchloom.prediction.models.devices import Precision
from patchloom.prediction.models.model import Model, ModelDescription, describe
from patchloom.prediction.models.prepare import prepare_model
from patchloom.prediction.normalization.methods import NormalizationMethod
from patchloom.prediction.normalization.normalization import Normalization
from patchloom.prediction.planning.fit import make_plan
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.planning.summary import describe_briefly, describe_plan, summarize_plan
from patchloom.prediction.postprocessing.steps import Postprocessing
from patchloom.prediction.probed_sizes import with_probed_sizes
from patchloom.prediction.request import PredictionRequest, RunOptions
from patchloom.prediction.run import complete_plan, run_request, with_draws
from patchloom.prediction.running.image_report import ImageReport
from patchloom.prediction.running.monitor import Stop
from patchloom.prediction.running.progress import Progress
from patchloom.prediction.skip_rules import SkipRule
from patchloom.prediction.survey import open_again, survey_images
from patchloom.sinks import OmeZarr


def predict(
    model: Model | Sequence[Model],
    sources: Source | Sequence[Source],
    output: str | Path | OmeZarr | None = None,
    *,
    axes: str | Sequence[str | None] | None = None,
    channels: int | str | Sequence[int | str] | None = None,
    region: str | Mapping[str, Any] | None = None,
    voxel_size: float | str | Sequence[float] | None = None,
    pixel_size: float | str | Sequence[float] | None = None,
    normalize: str | NormalizationMethod | Sequence[Normalization] | None = None,
    denormalize: bool | None = None,
    patch_size: int | Sequence[int] | None = None,
    overlaps: int | Sequence[int] | None = None,
    halo: int | Sequence[int] | None = None,
    blend: BlendWindow | Literal["none"] | None = None,
    seams: Seams | None = None,
    origin_multiple: int | Sequence[int] | None = None,
    padding: Padding = "reflect",
    batch_size: int | None = None,
    device: str | Sequence[str] | None = None,
    precision: Precision | None = None,
    n_draws: int | None = None,
    skip: str | SkipRule | None = None,
    memory_limit: int | None = None,
    postprocess: str | Postprocessing | None = None,
    overwrite: bool = False,
    resume_anyway: bool = False,
    keep_going: bool = False,
    progress: bool | Callable[[Progress], Any] = True,
    stop: Stop | None = None,
    report: Callable[[Sequence[ImageReport]], None] | None = None,
    certify: bool | Callable[[Certificate], Any] = False,
    tolerance: float | None = None,
) -> Any:
    """Predict images of any size, tile by tile.

    If the output is a file, memory stays below `memory_limit` for images of any size. To resume a run that was killed or failed,
    start it again in the same way; the result has the same bytes.

    Parameters
    ----------
    model : callable or torch.nn.Module, or sequence of these
        A network of PyTorch, or a callable, such as `load_model` returns. Of several, the mean of the predictions is taken
        (`EnsembleModel`). A network may be in training mode: it runs in evaluation mode and without gradients, and is in its
        own mode again afterwards. A model takes a batch `(B, C, (Z), Y, X)`, a callable in the dtype of the sources and a
        network in that of its weights. It returns an array-like with the same axes, any number of channels and any dtype. It
        may be as large as the batch, or a whole number of times larger or smaller, and it may lack the margin that valid
        convolutions remove, which must be the same on both sides. A tuple, list or mapping of such arrays gives several
        outputs. The outputs are inferred by running the model on one tile. If their size is not that of the tile, the model is
        run on a tile of another size, which distinguishes scale from margin, and on a tile with one voxel changed, which shows
        a margin that is not the same on both sides. A declared `scale` (`ModelDescription`) is not inferred.
    sources : path, URL, array, ImageStack or sequence of these
        The images: files (TIFF, OME-Zarr, Zarr, CZI, NumPy), folders, glob patterns, URLs of Zarrs, arrays and array-likes, or
        open stacks; see `open_stacks`. A sequence, a folder or a pattern is a series, even of a single image.
    output : str, Path or OmeZarr, optional
        An `.ome.zarr`, `.ome.tif` or `.npy` to write; for a series a folder, which gets one `.ome.zarr` for each image. An
        `OmeZarr` chooses version, pyramid and chunks. The path may be spelled as those of `sources`. If None, arrays are
        returned. Only OME-Zarr outputs can be resumed. If the model has several outputs, each is written to a file of its
        own, with `-` and the output's name before the ending; characters that a file system may not allow, such as `/` and
        `:`, are written as in a URL (`%2F`, `%3A`).
    axes : str or sequence of str, optional
        Axes of the sources, letters of `STCZYX`, outermost first: one text for all, or one for each. If None, as their
        metadata declare.
    channels : int, str or sequence of int or str, optional
        Channels that the model gets, in this order: indices, counted from 0, or names as the metadata of the images contain
        them, such as `[0, 2]`, `"DAPI"` or `["DAPI", "GFP"]`. A text may contain several, separated by commas. A channel may
        be given more than once: `[0, 0, 0]` makes a color image of a gray one. No other channel is read. If None, all
        channels.
    region : mapping or str, optional
        The box of each image that is predicted: for axes of `STZYX`, a start and a stop, or one position, such as
        `{"y": (100, 400), "x": (0, 512), "t": 3}`, or as text `"y=100:400,x=0:512,t=3"`. Numbers are voxels, from 0; text with
        a unit, such as `"z=2um:8um"`, is a length from the start of the image, rounded to the nearest voxel border; it needs
        voxel sizes. The start or the stop may be left out (`"y=100:"`). The result equals this box of the prediction of the
        whole image: the same tiles are used, at the same places, and read what lies around the box; statistics are those of
        the whole image. Only the tiles that the box needs are read and predicted. Axes of one voxel stay, and the origin in
        the metadata of the output is that of the box. If a model makes images smaller, the box is widened to whole voxels of
        the output. If None, whole images are predicted.
    voxel_size : float, str or sequence of float, optional
        Size of a voxel of the images in micrometers: one number for all spatial axes, or `(z,) y, x`. It replaces that of the
        metadata, also in the output. If None, as the metadata declare.
    pixel_size : float, str or sequence of float, optional
        Size of a pixel of the images that the model was trained on, in micrometers: one number, or `(z,) y, x`; or `"model"`
        for the size that the model declares. Each tile is resampled to this size for the model, and its prediction back to the
        voxels of the image, so the output has the size of the image, and no resampled image is stored. Interpolation is linear,
        with anti-aliasing where there are fewer pixels afterwards; integers and truth values that the model returns are labels,
        of which the nearest is taken. The ratio of both sizes is rounded to small whole numbers, by at most 2 %; the plan shows
        it. `patch_size`, `overlaps`, `halo` and `origin_multiple` are then those of the model, in its pixels; the voxels that
        interpolation needs are added to the overlap. All images of a series must have the same voxel size. If None, the model
        gets the voxels of the image.
    normalize : MeanStd, Percentiles, str or sequence of Normalization, optional
        Normalize each image by statistics of the whole image, which is read once more for this: `MeanStd(per="channel")`,
        `Percentiles(1, 99.8, per="sample")`, or as text `"mean_std/channel"`, `"percentiles:1,99.8/sample"`. With
        `channels`, these channels are the image. Or one `Normalization` for each image, measured before, of all of its
        channels. If None, what the model declares, and if it declares nothing, the pixel values are not changed; `"none"`
        leaves them in any case.
    denormalize : bool, optional
        Whether to undo the normalization of the image in predictions, before `postprocess`: a denoiser then returns gray
        values. Predictions that are not floats are not changed. If None, what the model declares.
    patch_size : int or sequence of int, optional
        Size of a tile in voxels: one number for all spatial axes, or `(z,) y, x`. With two numbers, or with a model that
        declares two dimensions, images with a Z axis are predicted slice by slice: Z stays Z in the output. If None, what the
        model declares; if it declares nothing, the model is probed on random numbers (`probe`), and tile size, overlap, stride
        and batch size are chosen for the fewest computed voxels that memory allows. One line on standard error, and in the
        plan, contains the choice.
    overlaps : int or sequence of int, optional
        Voxels that neighboring tiles share, as `patch_size`, with the halo and the margin that the model's output lacks. If
        None, what the model declares, else a quarter of the patch size; with `halo` at least twice the halo, and a quarter of
        the rest more if tiles are blended.
    halo : int or sequence of int, optional
        Voxels at the borders of each tile's prediction that are not used, as `patch_size`: where a network sees too little of
        the image. They are part of the overlap, so `overlaps` is at least twice as large. The halo is used at the ends of the
        image, where there is nothing else; so if no voxel of an output depends on voxels further away than the halo, the result
        is that of the whole image, cropped or blended. With `blend="mean"` and larger overlaps, voxels are averaged over
        sliding windows (inner tiling, https://arxiv.org/abs/2607.18990). If None, what the model declares, or how far it is
        known to look (`ModelDescription.context`), else 0.
    blend : {"hann", "gaussian", "linear", "mean", "none"}, optional
        Blend overlapping tiles with this window. `"none"` crops each voxel from one tile. If None, what the model declares,
        else as `"none"`. Predictions that are probably labels are refused: integers of another dtype than the model's input,
        written as integers.
    seams : {"centered", "grid"}, optional
        Where the kept parts of tiles meet; see `TiledPatching`. If None, chosen by the size of the images. Blending has no
        seams, and uses the tiles of `"centered"`, the smallest number of tiles.
    origin_multiple : int or sequence of int, optional
        Every tile starts on a multiple of this, in voxels: the stride of a network whose output depends on it. If None, what
        the model declares, else 1. A model that makes images smaller by a factor gets multiples of this factor in any case.
    padding : {"reflect", "edge", "wrap", "constant"}
        How pixels outside the image are filled, where a tile passes its end.
    batch_size : int, optional
        Number of tiles that go through the model together. If None, what the model declares, else 1. If the model runs out of
        memory, it gets half as many from then on, and a `RuntimeWarning` contains the number.
    device : str or sequence of str, optional
        Where the model runs: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, or `"auto"` for the best that this machine has. If None, a
        network stays where it is loaded or created. Not for plain functions, which choose their device themselves. Several, as
        in `"cuda:0,cuda:1"`, run one copy of the model each, and take the batches in turn.
    precision : {"float32", "bfloat16", "float16"}, optional
        Dtype in which the network computes; lower precision is faster on a GPU, and less exact. If None, that of its weights.
    n_draws : int, optional
        For a model that draws random numbers: run it on each batch as often as this, and write two outputs, `mean` and `std`,
        in float32. Dropout layers of PyTorch networks are active in the draws. What is done to the predictions (`postprocess`)
        is done to each draw. Draws depend on the batch only, so a resumed run has the same bytes, and another `batch_size`
        gives others. See `MonteCarloModel` for what the standard deviation is where tiles are blended. If None, the model is
        run once.
    skip : SkipRule or str, optional
        Rule that decides on which tiles the model is not run, such as `SkipDark(threshold=100, fill=0)`, or as text
        `"dark:100"`. It depends on the tile and the images only, not on memory, blocks, batches or resuming. A skipped tile
        counts as one for which the model returned the rule's `fill` everywhere, cropped or blended. If None, no tile is
        skipped.
    memory_limit : int, optional
        Memory that the run may use, in bytes, including measuring and without the memory of the model. If None, half of the
        free memory. It determines the blocks, and so the order in which blended tiles are summed: a sum may differ by its
        rounding. Each device after the first takes the memory of two more batches and their predictions beside it, as the result
        does not depend on the number of devices.
    postprocess : Postprocessing or str, optional
        What is done to finished blocks before they are written, such as `"argmax"`, `"threshold:0.5"` or `"uint8"`; see
        `parse_postprocessing`. Floats are rounded to integers and clipped to the range of the dtype. If None, what the model
        declares, and if it declares nothing, the predictions are written as they are, which `"none"` does in any case. The
        `fill` of `skip` is not postprocessed: it is written wherever all tiles are skipped, and elsewhere skipped tiles count
        as 0 in a blend.
    overwrite : bool
        Whether an output that exists may be replaced, and an unfinished one be discarded. An old output is not changed until
        the new one is complete.
    resume_anyway : bool
        Whether an unfinished output is resumed although the model, an image or the version of Patchloom differs or cannot be
        identified. You confirm that the results are the same.
    keep_going : bool
        Whether the other images of a series are finished when one fails. With `normalize` all images are measured first, and
        one that cannot be read ends the run before anything is written.
    progress : bool or callable
        Whether to show progress on standard error, and at the end a table of the images of a series. Or a function that is
        called with a `Progress`, in the thread that called `predict`: at the beginning and the end of measuring and of the
        tiles, and at most ten times a second in between. An error that it raises ends the run; finished blocks are kept.
    stop : threading.Event, optional
        An event, or any object with `is_set()`, that is asked after each batch, and while images are measured or the pyramid of
        an output is made: as soon as it is set, the run ends with a `StoppedError`. Another thread may set it, or `progress`.
        Finished blocks are kept, and the same call resumes the run to the same bytes.
    report : callable, optional
        Called at the end with one `ImageReport` for each image; also if some failed and the others were finished.
    certify : bool or callable
        Whether to predict regions at seams, corners and borders once more in larger tiles, and to compare the output with them
        (`Certificate`). This takes 5 % of the voxels of the run, or 8 tiles of twice the size along each axis if that is more, so
        it is off by default. The certificate is written beside the output (`.certificate.json`) and to the attributes of an
        OME-Zarr, and shown with `progress`. Or a function that is called with it. An output that differs is kept. See `certify`
        for outputs that exist. Not with `n_draws`.
    tolerance : float, optional
        The largest difference that the certificate tolerates: in intensities; of labels, the share of voxels that may differ. If
        None, 10⁻⁴ of the range of the values, and 10⁻⁴ of the voxels.

    Returns
    -------
    array or Path, or list of these
        The image in its source's own axes (with more than one channel, a source without `C` gets one before its spatial
        axes), or the path of its output; a mapping of these if the model has several outputs; a list, one for each image, if
        `sources` is a series.

    Raises
    ------
    ArgumentError, AxesError, SourceError
        If an argument has a value that is not allowed, or sizes do not fit the images, the memory or the model; if the axes
        of a source are not known; if a source cannot be opened. All before anything is written.
    SinkError
        If the output exists, belongs to an unfinished run of another plan, model or image, or cannot be written; or if it
        is, contains or is inside anything that the run reads: sources, files behind arrays, masks of `skip`, files that the
        model has open.
    SourceChangedError
        If an image changes on disk while the run reads it.
    ModelError
        If the model fails or returns something unusable; the message names the tile. Finished blocks are kept.
    SeriesError
        With `keep_going`, if images failed; it is raised after the other images are finished.
    StoppedError
        If `stop` was set. The message contains the number of blocks that are kept.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).integers(0, 255, (100, 80), np.uint8)
    >>> result = predict(lambda batch: batch, image, axes="YX", patch_size=64, progress=False)
    >>> bool((result == image).all()), result.dtype
    (True, dtype('uint8'))
    >>> part = predict(lambda batch: batch, image, axes="YX", patch_size=64, region={"y": (10, 40)}, progress=False)
    >>> bool((part == result[10:40]).all())
    True

    In a program with windows, such as a plugin of napari, the run has a thread of its own. `show` hands over what a bar displays,
    by a signal or `superqt.ensure_main_thread`, and a button sets the event (`button.clicked.connect(cancel.set)`):

    >>> from threading import Event
    >>> cancel = Event()
    >>> shown = []
    >>> def show(progress):
    ...     left = "" if progress.remaining is None else f", {progress.remaining:.0f} s left"
    ...     shown.append(f"{progress.label}: {progress.fraction:.0%}{left}")
    ...     cancel.set()  # as if somebody clicked
    >>> predict(lambda batch: batch, image, axes="YX", patch_size=32, overlaps=0, progress=show, stop=cancel)
    Traceback (most recent call last):
        ...
    patchloom.errors.StoppedError: the run was stopped, and no block is finished and kept: run the same again to start afresh
    >>> shown
    ['tiles: 0%']
    """
    request = PredictionRequest.parse(
        channels=channels,
        region=region,
        voxel_size=voxel_size,
        pixel_size=pixel_size,
        patch_size=patch_size,
        overlaps=overlaps,
        halo=halo,
        blend=blend,
        seams=seams,
        origin_multiple=origin_multiple,
        padding=padding,
        batch_size=batch_size,
        n_draws=n_draws,
        normalize=normalize,
        denormalize=denormalize,
        skip=skip,
        memory_limit=memory_limit,
        postprocess=postprocess,
    )
    options = RunOptions.parse(
        output=output,
        overwrite=overwrite,
        resume_anyway=resume_anyway,
        keep_going=keep_going,
        progress=progress,
        stop=stop,
        report=report,
        certify=certify,
        tolerance=tolerance,
    )
    prepared = with_draws(prepare_model(model, device, precision), request)
    series = is_series(sources)
    return run_request(request, options, prepared, open_stacks(sources, axes), is_series=series)


def plan(
    sources: Source | Sequence[Source],
    *,
    model: Model | Sequence[Model] | None = None,
    axes: str | Sequence[str | None] | None = None,
    channels: int | str | Sequence[int | str] | None = None,
    region: str | Mapping[str, Any] | None = None,
    voxel_size: float | str | Sequence[float] | None = None,
    pixel_size: float | str | Sequence[float] | None = None,
    normalize: str | NormalizationMethod | Sequence[Normalization] | None = None,
    denormalize: bool | None = None,
    patch_size: int | Sequence[int] | None = None,
    overlaps: int | Sequence[int] | None = None,
    halo: int | Sequence[int] | None = None,
    blend: BlendWindow | Literal["none"] | None = None,
    seams: Seams | None = None,
    origin_multiple: int | Sequence[int] | None = None,
    padding: Padding = "reflect",
    batch_size: int | None = None,
    n_draws: int | None = None,
    skip: str | SkipRule | None = None,
    memory_limit: int | None = None,
    postprocess: str | Postprocessing | None = None,
    measure: bool = False,
) -> PredictionPlan:
    """Plan a prediction without running it.

    No pixel is read, unless `measure` is set. The model is run only if neither `patch_size` is given nor the model declares its tiles: it
    is probed on random numbers then. `PredictionPlan.run` measures and infers what the plan does not contain.

    Parameters
    ----------
    sources : path, URL, array, ImageStack or sequence of these
        The images, as in `predict`.
    model : callable, optional
        What it declares is used: its tile size, overlap and channels.
    axes, channels, region, voxel_size, pixel_size, normalize, denormalize, patch_size, overlaps, halo, blend, seams
        As in `predict`.
    origin_multiple, padding, batch_size, n_draws, skip, memory_limit, postprocess
        As in `predict`.
    measure : bool
        Whether to read pixels: to measure the images if they are to be normalized, and to infer the outputs of the model by
        running it on one tile, if it is given and does not declare them. Such a plan is complete: run anywhere, it gives the
        same bytes.

    Returns
    -------
    PredictionPlan
        The plan.

    Raises
    ------
    ArgumentError, AxesError, SourceError
        As in `predict`.
    ModelError
        With `measure`, if the model fails.

    Examples
    --------
    >>> import numpy as np
    >>> plan(np.zeros((3, 100, 80)), axes="CYX", patch_size=64).tiling.overlaps
    (16, 16)
    """
    request = PredictionRequest.parse(
        channels=channels,
        region=region,
        voxel_size=voxel_size,
        pixel_size=pixel_size,
        patch_size=patch_size,
        overlaps=overlaps,
        halo=halo,
        blend=blend,
        seams=seams,
        origin_multiple=origin_multiple,
        padding=padding,
        batch_size=batch_size,
        n_draws=n_draws,
        normalize=normalize,
        denormalize=denormalize,
        skip=skip,
        memory_limit=memory_limit,
        postprocess=postprocess,
    )
    flag("measure", measure)
    prepared = None if model is None else with_draws(prepare_model(model), request)
    description = ModelDescription() if prepared is None else describe(prepared)
    request = request.for_model(description)
    images = open_stacks(sources, axes)
    survey, stacks = survey_images(images, request, description, is_series=is_series(sources))
    if measure:
        return PredictionPlan.of(complete_plan(request, survey, stacks, prepared))
    made = make_plan(request, with_probed_sizes(request, survey, prepared))
    return PredictionPlan.of(made)


class PredictionPlan(Plan):
    """An immutable description of a prediction run: its tiles, blocks, memory use and settings. Made by `plan`.

    It contains facts about images, not images: it pickles and goes to JSON in a few kilobytes, and runs in another process.

    Examples
    --------
    >>> import numpy as np
    >>> import patchloom as pl
    >>> image = np.arange(8000, dtype=np.uint16).reshape(100, 80)
    >>> prepared = pl.plan(image, axes="YX", patch_size=64, overlaps=16)
    >>> prepared
    PredictionPlan(4 tiles of 64 × 64 in 1 block, 1 image, ...)
    >>> again = pl.PredictionPlan.from_json(prepared.to_json())
    >>> again == prepared, bool((again.run(lambda batch: batch, sources=image, progress=False) == image).all())
    (True, True)
    """

    def summary(self) -> dict[str, Any]:
        """Return all that the plan will do as plain values that go to JSON.

        Examples
        --------
        >>> import numpy as np
        >>> import patchloom as pl
        >>> summary = pl.plan(np.zeros((100, 80), np.uint8), axes="YX", patch_size=64).summary()
        >>> summary["tiles"], summary["blocks"], summary["sources"][0]["shape"]
        (4, 1, [100, 80])
        """
        return summarize_plan(self)

    def run(
        self,
        model: Model | Sequence[Model],
        output: str | Path | OmeZarr | None = None,
        *,
        sources: Source | Sequence[Source] | None = None,
        device: str | Sequence[str] | None = None,
        precision: Precision | None = None,
        overwrite: bool = False,
        resume_anyway: bool = False,
        keep_going: bool = False,
        progress: bool | Callable[[Progress], Any] = True,
        stop: Stop | None = None,
        report: Callable[[Sequence[Any]], None] | None = None,
        certify: bool | Callable[[Certificate], Any] = False,
        tolerance: float | None = None,
    ) -> Any:
        """Run the plan.

        What the plan does not contain is found out first: images are measured if they are to be normalized, and the outputs
        of the model are inferred.

        Parameters
        ----------
        model : callable
            The model that the plan was made for; see `predict`.
        output, device, precision, overwrite, resume_anyway, keep_going, progress, stop, report, certify, tolerance
            As in `predict`.
        sources : path, URL, array, ImageStack or sequence of these, optional
            The images that the plan was made for. Needed if they are not files, such as arrays in memory. If None, the files
            are opened again.

        Returns
        -------
        array or Path, or list of these
            As `predict`.

        Raises
        ------
        SourceNotFoundError
            If an image is not a file, and is not given.
        SourceChangedError
            If an image is another one than when the plan was made.
        ArgumentError, SourceError, SinkError, ModelError, SeriesError
            As `predict`.
        """
        options = RunOptions.parse(
            output=output,
            overwrite=overwrite,
            resume_anyway=resume_anyway,
            keep_going=keep_going,
            progress=progress,
            stop=stop,
            report=report,
            certify=certify,
            tolerance=tolerance,
        )
        prepared = with_draws(prepare_model(model, device, precision), self.request)
        images = open_again(self.survey, sources)
        return run_request(self.request, options, prepared, images, is_series=self.survey.is_series, planned=self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({describe_briefly(self)})"

    def __str__(self) -> str:
        return describe_plan(self)
