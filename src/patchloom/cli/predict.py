"""`patchloom predict`: run a model over images and write the result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from patchloom.cli import options
from patchloom.cli.reporting import print_json, reported_errors
from patchloom.prediction import predict
from patchloom.prediction.models.augmented_model import AugmentedModel
from patchloom.prediction.models.ensemble_model import EnsembleModel
from patchloom.prediction.models.load import load_model
from patchloom.prediction.models.model import Model
from patchloom.prediction.running.image_report import ImageReport
from patchloom.sinks import OmeZarr, OmeZarrVersion, Pyramid


def predict_command(
    sources: options.Sources,
    model: Annotated[
        list[str],
        typer.Option(
            metavar="FILE",
            help=f"The model: {options.MODEL_KINDS}. Repeat it to average several models.",
            rich_help_panel=options.MODEL,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="The .ome.zarr, .ome.tif or .npy to write; for several images a folder, which gets one .ome.zarr for each.",
            rich_help_panel=options.OUTPUT,
        ),
    ],
    layout: options.Layout = None,
    inputs: options.InputValues = None,
    model_output: options.ModelOutput = None,
    bgr: options.Bgr = None,
    weights: options.Weights = None,
    network: options.Network = None,
    argument: options.FactoryArguments = None,
    trust: options.Trust = False,
    batch_size: options.BatchSize = None,
    n_draws: options.Draws = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    augment: Annotated[
        Literal["none", "flips", "all"],
        typer.Option(
            help="Average predictions over flips (4 times the work), or over flips and quarter turns (8 times).",
            rich_help_panel=options.MODEL,
        ),
    ] = "none",
    axes: options.Axes = None,
    channels: options.Channels = None,
    region: options.Region = None,
    voxel_size: options.VoxelSize = None,
    pixel_size: options.PixelSize = None,
    normalize: options.Normalize = None,
    denormalize: options.Denormalize = None,
    patch_size: options.PatchSize = None,
    overlaps: options.Overlaps = None,
    halo: options.Halo = None,
    blend: options.Blend = None,
    seams: options.Seams = None,
    origin_multiple: options.OriginMultiple = None,
    padding: options.Padding = "reflect",
    skip: options.Skip = None,
    postprocess: options.Postprocess = None,
    pyramid: options.Pyramid = "auto",
    ome_zarr: Annotated[
        Literal["0.5", "0.4"], typer.Option(help="Version of an OME-Zarr output.", rich_help_panel=options.OUTPUT)
    ] = "0.5",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace an output that exists, and discard an unfinished one.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    memory_limit: options.MemoryLimit = None,
    resume_anyway: Annotated[
        bool,
        typer.Option(
            "--resume-anyway",
            help="Resume although the model, an image or the version of Patchloom differs or cannot be identified. You "
            "confirm that the results are the same.",
            rich_help_panel=options.RUN,
        ),
    ] = False,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going", help="If an image of a series fails, finish the others.", rich_help_panel=options.RUN
        ),
    ] = False,
    certify: Annotated[
        bool,
        typer.Option(
            "--certify",
            help="Predict regions at seams and borders once more in larger tiles, compare, and write the certificate beside the "
            "output. See also the command check.",
            rich_help_panel=options.RUN,
        ),
    ] = False,
    tolerance: options.Tolerance = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show no progress.", rich_help_panel=options.RUN)
    ] = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Run a model over images of any size and write the result.

    To resume a run that was stopped or killed, start it again in the same way.

    The paths of outputs are printed on standard output, all else on standard error.
    """
    reports: list[ImageReport] = []
    started = time.monotonic()
    with reported_errors(debug=debug), _printed(reports, started, as_json=as_json):
        predict(
            _augmented(
                load_models(
                    model,
                    layout=layout,
                    inputs=options.input_values(inputs),
                    output=model_output or None,
                    bgr=bgr,
                    weights=weights,
                    network=network,
                    arguments=options.factory_arguments(argument),
                    trust=trust or None,
                    device=device,
                    precision=precision,
                ),
                augment,
            ),
            sources if len(sources) > 1 else sources[0],
            _output(output, pyramid=None if pyramid == "none" else pyramid, version=ome_zarr),
            axes=axes,
            channels=channels,
            region=region,
            voxel_size=voxel_size,
            pixel_size=pixel_size,
            normalize=normalize,
            denormalize=denormalize,
            patch_size=patch_size,
            overlaps=overlaps,
            halo=halo,
            blend=blend,
            seams=seams,
            origin_multiple=origin_multiple,
            padding=padding,
            batch_size=batch_size,
            n_draws=n_draws,
            skip=skip,
            memory_limit=memory_limit,
            postprocess=postprocess,
            keep_going=keep_going,
            overwrite=overwrite,
            resume_anyway=resume_anyway,
            progress=not quiet,
            report=reports.extend,
            certify=certify,
            tolerance=tolerance,
        )
    if not quiet and not as_json:
        Console(stderr=True).print(f"done in {time.monotonic() - started:.1f} s", highlight=False)


@contextmanager
def _printed(reports: list[ImageReport], started: float, *, as_json: bool) -> Iterator[None]:
    """Print the paths of outputs, also if images of a series failed."""
    try:
        yield
    finally:
        written = [path for report in reports for path in report.outputs]
        if as_json and reports:
            images = [report.to_dict() for report in reports]
            print_json({"written": written, "seconds": round(time.monotonic() - started, 3), "images": images})
        elif not as_json:
            for path in written:
                typer.echo(path)


def load_models(references: Sequence[str], **how: Any) -> Model:
    """Load a model, or several models that are averaged.

    Parameters
    ----------
    references : sequence of str
        What `load_model` takes.
    **how
        Arguments of `load_model`.
    """
    models = [load_model(reference, **how) for reference in references]
    return models[0] if len(models) == 1 else EnsembleModel(models)


def _output(path: str, *, pyramid: Pyramid | None, version: OmeZarrVersion) -> str | OmeZarr:
    """Return the path alone if it has no other options than the default: only an OME-Zarr has options."""
    return path if (pyramid, version) == ("auto", "0.5") else OmeZarr(path, pyramid=pyramid, version=version)


def _augmented(model: Model, augment: Literal["none", "flips", "all"]) -> Model:
    if augment == "none":
        return model
    return AugmentedModel(model, quarter_turns=augment == "all")
