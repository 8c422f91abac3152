"""MONAI bundles as models."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from patchloom.argument_checks import file_path, flag, one_of, shown
from patchloom.digests import file_digest, text_digest
from patchloom.errors import ModelError
from patchloom.local_paths import normalize_path
from patchloom.prediction.models.devices import Precision
from patchloom.prediction.models.model import ModelDescription, check_batch
from patchloom.prediction.models.monai.bundle import Bundle, open_bundle
from patchloom.prediction.models.monai.bundle_config import Unevaluated
from patchloom.prediction.models.monai.bundle_network import find_definition, make_network
from patchloom.prediction.models.monai.transforms import Preprocessing, read_postprocessing, read_preprocessing
from patchloom.prediction.models.processed_model import ProcessedModel
from patchloom.prediction.models.pytorch.torch_model import TorchModel
from patchloom.tensors.tensor_pixels import Pixels

LAYOUTS = ("NCHW", "NCWH", "NCDHW", "NCWHD")
"""Orders of the axes of a network: from the first spatial axis to the last, or from X on."""

_BLENDS = {"constant": "mean", "gaussian": "gaussian"}
"""For each `mode` of MONAI's inferer, the window that does the same."""

_SLIDING = frozenset({"SlidingWindowInferer", "SlidingWindowInfererAdapt"})


class MonaiModel:
    """A MONAI bundle, as a callable `(B, C, (Z), Y, X) -> tensor`.

    The network is that of `models/model.ts`, which needs no MONAI, or the one that `network_def` in `configs/inference.json` or
    `.yaml` defines, with the weights in `models/model.pt`. Its inferer and transforms become defaults of `predict`, which
    `description` contains: `roi_size` the tile size, `overlap`, `mode` the blending, `sw_batch_size`, intensity transforms a
    normalization by statistics of the whole image, activations and discretization postprocessing. Channel names come from
    `configs/metadata.json`.

    Parameters
    ----------
    path : path
        The bundle's folder.
    layout : str, optional
        Order of the axes of the network: `"NCHW"`, `"NCDHW"`, or with X first `"NCWH"`, `"NCWHD"`. If None, X is first if the
        preprocessing has a `LoadImage` whose reader delivers images so, as most of MONAI do.
    preprocess : bool
        Whether the transforms before the network are applied. If not, give an image that is preprocessed.
    trust : bool
        Whether code in the bundle is run: expressions, classes other than networks of MONAI and PyTorch, and pickles.

    Raises
    ------
    ModelNotFoundError
        If there is no such folder, or it contains no network.
    ModelError
        If it is not a bundle, its network cannot be made or needs code that is not trusted, or a transform cannot be applied
        and results would be wrong without it.
    MissingExtraError
        If a package is not installed that is needed.

    Warns
    -----
    UserWarning
        If transforms are not applied that change the geometry of an image, or come after the network: the message names them.

    Notes
    -----
    Tiles are those of MONAI's `SlidingWindowInferer`. With the mode `constant` predictions are the same. With `gaussian` they
    differ where the last tile is moved inside the image, as its border has less weight here, and at the border of the image, where
    MONAI raises all weights to a thousandth of the largest. MONAI pads an image that is smaller than a tile on both sides, by zeros; here `padding` decides.

    Examples
    --------
    >>> MonaiModel("spleen_ct_segmentation")
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelNotFoundError: there is no folder spleen_ct_segmentation: check the path
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        layout: str | None = None,
        preprocess: bool = True,
        trust: bool = False,
    ) -> None:
        root = Path(normalize_path(file_path("path", path)))
        for name, value in (("preprocess", preprocess), ("trust", trust)):
            flag(name, value)
        if layout is not None:
            one_of("layout", layout, LAYOUTS)
        with _naming(root):
            bundle = open_bundle(root, trust=trust)
            network = make_network(bundle, trust=trust)
            image, prediction = _input_key(bundle), _output_key(bundle)
            before = read_preprocessing(bundle.config.get("preprocessing"), image) if preprocess else Preprocessing()
            after, notes = read_postprocessing(bundle.config.get("postprocessing"), prediction)
            x_is_first = before.x_is_first if layout is None else layout in ("NCWH", "NCWHD")
            description = _describe(bundle, before, after, x_is_first=x_is_first)
            if layout is not None and description.n_dims not in (None, len(layout) - 2):
                raise ModelError(
                    f"layout is {layout!r}, and the network of {root} is {description.n_dims}D: leave it out"
                )
        # Absolute, as another process that opens the model again may run in another directory.
        self._arguments = (root.absolute(), layout, preprocess, trust)
        self.files = tuple(path.absolute() for path in bundle.files)
        self._x_is_first = x_is_first
        self._identity = text_digest(f"{[file_digest(file) for file in self.files]} {self._arguments[1:3]}")
        self._model = ProcessedModel(TorchModel(network, description), before.steps)
        _warn(root, (*before.notes, *notes))

    @property
    def description(self) -> ModelDescription:
        """The tiles, blending, normalization and postprocessing of the bundle, and the channels of the network."""
        network: TorchModel = self._network
        return network.description

    @property
    def identity(self) -> str:
        """The digest of the network and the configuration, with the kind of device and the precision."""
        return f"{self._identity} {self._network.device.partition(':')[0]} {self._network.precision}"

    @property
    def _network(self) -> Any:
        return self._model.model

    @property
    def tensor_device(self) -> str | None:
        """The device of the network; see `TakesTensors`."""
        return self._model.tensor_device

    def on(self, device: str | None, precision: Precision | None, /) -> MonaiModel:
        """Return the model on a device; see `RunsOnDevice`."""
        moved = object.__new__(MonaiModel)  # no file is read again
        vars(moved).update(vars(self), _model=self._model.on(device, precision))
        return moved

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self._arguments, self._network.device, self._network.precision)

    def __call__(self, batch: Pixels, /) -> Any:
        """Predict a batch; see `Model`. Returns tensors on the device of the network."""
        check_batch(batch, tensors=True)
        if not self._x_is_first:
            return self._model(batch)
        return _with_axes_reversed(self._model(_with_axes_reversed(batch)))


@contextmanager
def _naming(root: Path) -> Iterator[None]:
    """Put the name of the bundle into errors that do not contain it."""
    try:
        yield
    except ModelError as error:
        if str(root) in str(error):
            raise
        raise ModelError(f"{root} cannot be used: {error}") from error


def _open_again(arguments: tuple[Path, str | None, bool, bool], device: str, precision: Precision | None) -> MonaiModel:
    path, layout, preprocess, trust = arguments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they were shown when the model was made
        model = MonaiModel(path, layout=layout, preprocess=preprocess, trust=trust)
    return model.on(device, precision)


def _with_axes_reversed(values: Any) -> Any:
    """View a batch, or each output for it, with its spatial axes in reverse order."""
    if isinstance(values, Mapping):
        return {name: _with_axes_reversed(value) for name, value in values.items()}
    if isinstance(values, (tuple, list)):
        return tuple(map(_with_axes_reversed, values))
    order = (0, 1, *range(values.ndim - 1, 1, -1))
    return values.permute(order) if hasattr(values, "permute") else values.transpose(order)


def _warn(root: Path, notes: Sequence[str]) -> None:
    if notes:
        warnings.warn(f"{root}: {'; '.join(notes)}", UserWarning, stacklevel=3)


def _input_key(bundle: Bundle) -> str:
    return _only_key(bundle, "inputs", "image")


def _output_key(bundle: Bundle) -> str:
    return _only_key(bundle, "outputs", "pred")


def _only_key(bundle: Bundle, part: str, usual: str) -> str:
    """Return the name of the image or of the prediction; a bundle with several inputs is refused."""
    described = bundle.metadata.get(f"network_data_format::{part}")
    names = list(described) if isinstance(described, Mapping) else []
    if part == "inputs" and len(names) > 1:
        raise ModelError(
            f"{bundle.root} has a network with {len(names)} inputs ({', '.join(map(str, names))}): it must have one"
        )
    return usual if usual in names or not names else str(names[0])


def _describe(bundle: Bundle, before: Preprocessing, after: str | None, *, x_is_first: bool) -> ModelDescription:
    definition = find_definition(bundle)
    network = definition if isinstance(definition, Mapping) else {}
    source = bundle.metadata.get(f"network_data_format::inputs::{_input_key(bundle)}") or {}
    target = bundle.metadata.get(f"network_data_format::outputs::{_output_key(bundle)}") or {}
    n_dims = _count_axes(network, source, bundle)
    sizes = {**_tiles(bundle, n_dims), "size_step": _size_step(source)}
    in_order: dict[str, Any] = {name: size and size[:: -1 if x_is_first else 1] for name, size in sizes.items()}
    pixel_size = None if before.pixel_size is None or len(before.pixel_size) != n_dims else before.pixel_size
    return ModelDescription(
        **_without_contradiction(in_order),
        **_inferer_options(bundle),
        n_dims=n_dims,
        in_channels=_positive(network.get("in_channels")) or _positive(source.get("num_channels")),
        out_channel_names=_channel_names(target, _positive(network.get("out_channels"))),
        normalize=before.normalize,
        postprocess=after,
        pixel_size=pixel_size and pixel_size[:: -1 if x_is_first else 1],
    )


def _count_axes(network: Mapping[str, Any], source: Mapping[str, Any], bundle: Bundle) -> int | None:
    shape, roi = source.get("spatial_shape"), bundle.config.get("inferer::roi_size")
    for found in (
        network.get("spatial_dims", network.get("dimensions")),
        *[len(sizes) for sizes in (roi, shape) if isinstance(sizes, list)],
    ):
        if found in (2, 3):
            return int(found)
    return None


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _channel_names(target: Mapping[str, Any], n_channels: int | None) -> tuple[str, ...]:
    """Return the names of the output channels, if all are named."""
    names = target.get("channel_def")
    if not isinstance(names, Mapping):
        return ()
    by_index = {str(index): name for index, name in names.items()}
    ordered = tuple(str(by_index.get(str(index), "")) for index in range(len(by_index)))
    expected = n_channels or _positive(target.get("num_channels")) or len(ordered)
    return ordered if all(ordered) and len(ordered) == expected else ()


def _inferer(bundle: Bundle) -> Mapping[str, Any]:
    """Return the definition of an inferer that divides images into tiles; empty if there is none.

    Raises
    ------
    ModelError
        If the inferer does something that has no counterpart here.
    """
    inferer = bundle.config.get("inferer")
    if not isinstance(inferer, Mapping):
        return {}
    target = str(inferer.get("_target_"))
    name = target.rpartition(".")[2] if "." not in target or target.startswith("monai.") else ""
    if name in _SLIDING:
        return inferer
    if name == "SimpleInferer":
        return {}
    raise ModelError(
        f"{bundle.root} has the inferer {shown(target)}: only SlidingWindowInferer and SimpleInferer have a counterpart here; load "
        "its network alone"
    )


def _inferer_options(bundle: Bundle) -> dict[str, Any]:
    inferer = _inferer(bundle)
    if not inferer:
        return {}
    mode = str(inferer.get("mode", "constant")).rpartition(".")[2].lower()
    if mode not in _BLENDS:
        raise ModelError(
            f"{bundle.root} has an inferer with mode {shown(mode)}: it must be one of {', '.join(_BLENDS)}"
        )
    return {"blend": _BLENDS[mode], "preferred_batch_size": _positive(inferer.get("sw_batch_size"))}


def _tiles(bundle: Bundle, n_dims: int | None) -> dict[str, tuple[int, ...] | None]:
    """Return the tile size and overlap of the inferer, in the order of the network's axes."""
    inferer = _inferer(bundle)
    roi, overlap = inferer.get("roi_size"), inferer.get("overlap", 0.25)
    sizes: list[Any] = roi if isinstance(roi, list) else [roi] * (n_dims or 0)
    if not sizes or not all(map(_positive, sizes)):  # an axis of size -1 is not divided
        return {}
    parts = overlap if isinstance(overlap, list) else [overlap] * len(sizes)
    if len(parts) != len(sizes) or not all(isinstance(part, (int, float)) and 0 <= part < 1 for part in parts):
        text = overlap.text if isinstance(overlap, Unevaluated) else overlap
        raise ModelError(
            f"{bundle.root} has an inferer with overlap {shown(text)}: it must be a number from 0 to less than 1, or one for each axis"
        )
    # MONAI gives the overlap as a part of the tile, and rounds the step between tiles down.
    overlaps = tuple(size - max(1, int(size * (1 - part))) for size, part in zip(sizes, parts, strict=True))
    return {"preferred_patch_size": tuple(sizes), "overlaps": overlaps}


def _size_step(source: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the step of the tile sizes that are accepted: MONAI writes `16*n` for multiples of 16, and `*` for any size."""
    shape = source.get("spatial_shape")
    if not isinstance(shape, list):
        return None
    steps = [re.fullmatch(r"(?:(\d+)\*n|n\*(\d+)|\*)", str(size).replace(" ", "")) for size in shape]
    return tuple(int(step[1] or step[2] or 1) for step in steps if step is not None) if shape and all(steps) else None


def _without_contradiction(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return sizes without the rule for them, if the tile size of the inferer does not follow it."""
    tile, step = sizes.get("preferred_patch_size"), sizes["size_step"]
    follows = tile is None or step is None or not any(side % by for side, by in zip(tile, step, strict=False))
    return dict(sizes) if follows else {**sizes, "size_step": None}
