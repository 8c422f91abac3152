"""The comparison of the outputs of a run with predictions of regions in larger tiles."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from numpy.typing import NDArray

from patchloom.digests import text_digest
from patchloom.errors import ArgumentError, ModelError
from patchloom.extraction import ChunkCache, PatchExtractor
from patchloom.image_stacks import ImageStack
from patchloom.prediction.certificate.certificate import (
    PERCENTILES,
    Certificate,
    CertifiedRegion,
    OutputDifference,
)
from patchloom.prediction.certificate.differences import DifferenceStatistics
from patchloom.prediction.certificate.regions import (
    DEFAULT_REGIONS,
    Context,
    TileSize,
    choose_regions,
    region_tile,
    replaced,
    voxels_of_run,
)
from patchloom.prediction.certificate.repredicting import as_written, predict_tile, tile_at
from patchloom.prediction.certificate.written_outputs import WrittenOutput
from patchloom.prediction.models.identity.model_identity import ModelIdentity, identify_model
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.outputs import OutputSpec
from patchloom.prediction.models.replicas import replicas_of
from patchloom.prediction.models.rescaling.rescaled_model import PixelGrid, RescaledModel
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.planning.summary import plan_fingerprint
from patchloom.prediction.planning.tile_layout import TileLayout
from patchloom.prediction.postprocessing.labels import holds_labels
from patchloom.prediction.request import PredictionRequest
from patchloom.prediction.running.tile_reading import candidate_tiles, specs_in_images

DEFAULT_TOLERANCE = 1e-4
"""Of intensities, as a share of their range; of labels, the share of voxels that may differ."""

_LIBRARIES = ("numpy", "torch", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class CertificateOptions:
    """How outputs are compared."""

    seed: int = 0
    n_regions: int = DEFAULT_REGIONS
    tolerance: float | None = None
    """The largest difference that is tolerated; None for a share of the range of the output."""


def check_certifiable(request: PredictionRequest) -> None:
    """Check that a second prediction can be compared with the first.

    Parameters
    ----------
    request : PredictionRequest
        What is to be computed.

    Raises
    ------
    ArgumentError
        If the model draws random numbers.
    """
    if request.n_draws is not None:
        raise ArgumentError(
            f"n_draws is {request.n_draws}, so a second prediction has other random numbers and cannot certify the first: "
            "certify a run without n_draws"
        )


def certify_results(
    plan: Plan,
    stacks: Sequence[ImageStack],
    model: Model,
    results: Mapping[int, Any],
    options: CertificateOptions,
    *,
    check: Callable[[], None] = lambda: None,
) -> Certificate:
    """Predict regions of finished outputs once more, and compare.

    Parameters
    ----------
    plan : Plan
        The plan, with known outputs.
    stacks : sequence of ImageStack
        Its series as the model is run on it.
    model : callable
        The model, in its own pixels.
    results : mapping of int to object
        The result of each image that is complete.
    options : CertificateOptions
        How they are compared.
    check : callable
        Called before each region; what it raises ends the comparison.

    Raises
    ------
    ArgumentError
        If the model draws random numbers.
    SourceError, ModelError
        As `predict`.
    """
    check_certifiable(plan.request)
    started = time.monotonic()
    with ChunkCache(max(1, plan.memory.cache)) as cache:
        extractor = PatchExtractor(stacks, padding=plan.request.padding, cache=cache)
        comparison = _Comparison(plan.layout, extractor, replicas_of(model)[0], results)
        context = known_context(plan.layout)
        for region, tile in choose_regions(plan, options.seed, options.n_regions, context, sorted(results)):
            check()
            comparison.add(region, tile, context)
    identity = identify_model(replicas_of(model)[0])
    return Certificate(
        outputs=tuple(comparison.differences(options.tolerance)),
        regions=tuple(comparison.regions),
        n_skipped_regions=comparison.n_skipped,
        n_voxels_predicted=comparison.n_voxels_predicted,
        n_voxels_of_run=voxels_of_run(plan),
        seed=options.seed,
        plan=plan_fingerprint(plan),
        model=_digest(identity),
        model_unknown=identity.unknown,
        versions=_versions(),
        seconds=round(time.monotonic() - started, 3),
    )


def known_context(layout: TileLayout) -> Context | None:
    """Return how far an output voxel looks, in voxels of the image; None if that is not known, or the model looks at whole tiles."""
    model, steps = layout.survey.model, layout.survey.pixel_steps
    if model.context is None or model.is_global:
        return None
    if steps is None:
        return model.context
    before, after = zip(*model.context, strict=True)
    grid = PixelGrid(steps)
    return list(zip(grid.halos(before), grid.halos(after), strict=True))


class _Comparison:
    """The regions that were compared so far."""

    def __init__(self, layout: TileLayout, extractor: PatchExtractor, model: Model, results: Mapping[int, Any]) -> None:
        self._layout, self._extractor, self._model, self._results = layout, extractor, model, results
        self._outputs: dict[int, WrittenOutput] = {}
        self._seen: dict[str, DifferenceStatistics] = {}
        self.regions: list[CertifiedRegion] = []
        self.n_skipped = 0
        self.n_voxels_predicted = 0

    def add(self, region: CertifiedRegion, tile: TileSize, context: Context | None) -> None:
        """Predict a region, and compare it; with a smaller tile if the model does not accept this one."""
        if self._is_skipped(region):
            self.n_skipped += 1
            return
        for smaller in _smaller_tiles(self._layout, region.data_idx, tile):
            placed = replaced(self._layout, region, smaller, context)
            if any(stop <= start for start, stop in zip(placed.start, placed.stop, strict=True)):
                continue
            try:
                predictions = self._predict(placed, smaller)
            except ModelError:
                if smaller.of_network == self._layout.network_size:
                    raise
                continue
            self._compare(placed, predictions)
            return

    def _predict(self, region: CertifiedRegion, tile: TileSize) -> dict[str, NDArray[Any]]:
        steps = self._layout.survey.pixel_steps
        model = self._model if steps is None else RescaledModel(self._model, steps, tile.of_network)
        self.n_voxels_predicted += prod(tile.of_network)
        spec = tile_at(region.data_idx, region.sample_idx, region.tile_start, region.tile_size)
        return predict_tile(self._layout, self._extractor, model, spec)

    def _compare(self, region: CertifiedRegion, predictions: Mapping[str, NDArray[Any]]) -> None:
        layout, data_idx = self._layout, region.data_idx
        written = self._outputs.setdefault(data_idx, WrittenOutput(layout, data_idx, self._results[data_idx]))
        tile_region = layout.region(data_idx)
        sample_idx = region.sample_idx
        number = sample_idx if tile_region is None else int(tile_region.sample_in_region(sample_idx))
        for output in layout.survey.outputs[data_idx]:
            first = output.scale_coords(region.tile_start)
            window = output.scale_window(tuple(map(slice, region.start, region.stop)))
            inside = tuple(slice(part.start - at, part.stop - at) for part, at in zip(window, first, strict=True))
            expected = as_written(
                layout, data_idx, sample_idx, output, predictions[output.name][(slice(None), *inside)]
            )
            found = written.read(output, number, region.start, region.stop)
            seen = self._seen.setdefault(
                output.name, DifferenceStatistics(is_labels=_is_labels(layout, data_idx, output))
            )
            seen.add(len(self.regions), found, expected)
        self.regions.append(region)

    def _is_skipped(self, region: CertifiedRegion) -> bool:
        """Return whether the run did not run the model on a tile that meets the region."""
        rule, layout = self._layout.request.skip, self._layout
        if rule is None:
            return False
        window = tuple(map(slice, region.start, region.stop))
        tiles = layout.tiling.specs(layout.tiling.tiles_touching(region.data_idx, region.sample_idx, window))
        return any(rule.skips(candidate_tiles(layout, self._extractor, tiles)))

    def differences(self, tolerance: float | None) -> Iterator[OutputDifference]:
        """Yield the differences of each output."""
        for name, seen in self._seen.items():
            share = DEFAULT_TOLERANCE if seen.is_labels else DEFAULT_TOLERANCE * seen.value_range
            allowed = share if tolerance is None else tolerance
            data_idx, sample_idx, coords, size = self._worst(name, seen)
            yield OutputDifference(
                output=name,
                is_labels=seen.is_labels,
                n_voxels=seen.n_voxels,
                largest=seen.largest,
                percentiles=tuple(map(seen.percentile, PERCENTILES)),
                value_range=seen.value_range,
                tolerance=float(allowed),
                n_over=seen.n_over(0 if seen.is_labels else allowed),
                worst_data_idx=data_idx,
                worst_sample_idx=sample_idx,
                worst_coords=coords,
                worst_size=size,
            )

    def _worst(self, name: str, seen: DifferenceStatistics) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        """Return where the voxel that differs most lies in its image, and the size of the voxels of the input under it."""
        if seen.worst is None:
            return -1, 0, (), ()
        region = self.regions[seen.worst.region]
        (output,) = (spec for spec in self._layout.survey.outputs[region.data_idx] if spec.name == name)
        places = zip(region.start, seen.worst.position, output.scale, strict=True)
        coords = tuple(int(start + position / factor) for start, position, factor in places)
        size = tuple(factor.denominator for factor in output.scale)
        spec = tile_at(region.data_idx, region.sample_idx, coords, size)
        in_image = specs_in_images(self._layout, [spec])[0]
        return region.data_idx, in_image["sample_idx"], tuple(in_image["coords"]), tuple(in_image["patch_size"])


def _smaller_tiles(layout: TileLayout, data_idx: int, tile: TileSize) -> Iterator[TileSize]:
    """Yield tiles that are tried: the one that was chosen, one of a quarter of its voxels, and that of the run."""
    tried = None
    for most in (prod(tile.of_network), prod(tile.of_network) // 4, 0):
        smaller = tile if tried is None else region_tile(layout, data_idx, most)
        if smaller != tried:
            yield smaller
        tried = smaller


def _is_labels(layout: TileLayout, data_idx: int, output: OutputSpec) -> bool:
    request = layout.request
    return holds_labels(
        output.dtype, layout.batch_dtype(data_idx), postprocess=request.postprocess, blend=request.blend
    )


def _digest(identity: ModelIdentity) -> str:
    return text_digest("\n".join(f"{name} {digest}" for name, digest in sorted(identity.parts.items())))


def _versions() -> tuple[str, ...]:
    """Return the versions of Patchloom and of the libraries that are loaded."""
    package = __name__.partition(".")[0]
    loaded = [name for name in (package, *_LIBRARIES) if name in sys.modules]
    return tuple(f"{name} {getattr(sys.modules[name], '__version__', '')}" for name in loaded)
