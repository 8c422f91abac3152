"""Networks trained by CAREamics, as models."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

from patchloom._optional import require
from patchloom.argument_checks import file_path, flag, function
from patchloom.digests import file_digest
from patchloom.errors import ModelError
from patchloom.local_paths import normalize_path
from patchloom.prediction.models.careamics.checkpoint import CareamicsCheckpoint, read_checkpoint
from patchloom.prediction.models.devices import Precision
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.models.processed_model import ProcessedModel
from patchloom.prediction.models.pytorch.torch_model import TorchModel
from patchloom.tensors.tensor_pixels import Pixels


class CareamicsModel:
    """A network trained by CAREamics 0.3 (Noise2Void, CARE, Noise2Noise), as a callable `(B, C, (Z), Y, X) -> tensor`.

    Images are normalized by the statistics of the training data, which the checkpoint contains, and this is undone in the
    predictions, as CAREamics does. Nothing has to be given to `predict` but the image: `description` has the rule for tile
    sizes, the stride and the overlap of the network.

    Parameters
    ----------
    path : path
        The checkpoint (`.ckpt`).
    trust : bool
        Whether code in the file may be run to read it. Files that CAREamics writes contain none, and are read without it.
    make_network : callable, optional
        Takes the arguments of the network as a mapping, and returns a `torch.nn.Module`, which gets the weights. If None, the
        `UNet` of the installed CAREamics.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    ModelError
        If the file cannot be read, or is not a checkpoint of such a network.
    MissingExtraError
        If CAREamics is not installed.

    Notes
    -----
    The overlap is twice the distance that the network looks to one side, so tiles agree with the whole image. For the usual depth of 2
    it is 52 voxels; the default of CAREamics is 48.

    Examples
    --------
    >>> CareamicsModel("run.ckpt")
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelNotFoundError: there is no model file run.ckpt: check the path
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        trust: bool = False,
        make_network: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        path = Path(normalize_path(file_path("path", path)))
        flag("trust", trust)
        if make_network is not None:
            function("make_network", make_network, "it returns a torch.nn.Module")
        checkpoint = read_checkpoint(path, trust=trust)
        network = (make_network or _careamics_network)(dict(checkpoint.network))
        _load_weights(network, checkpoint, path)
        # Absolute, as another process that opens the model again may run in another directory.
        self._arguments = (path.absolute(), trust, make_network)
        description = _describe(checkpoint, file_digest(path))
        self._model = ProcessedModel(TorchModel(network, description), checkpoint.before, checkpoint.after)

    @property
    def description(self) -> ModelDescription:
        """Size rule, stride, overlap and channels of the network."""
        network: TorchModel = self._network
        return network.description

    @property
    def identity(self) -> str:
        """The digest of the file, with the kind of device and the precision."""
        network: TorchModel = self._network
        return network.identity

    @property
    def files(self) -> tuple[Path, ...]:
        """The checkpoint."""
        return (self._arguments[0],)

    @property
    def _network(self) -> Any:
        return self._model.model

    @property
    def tensor_device(self) -> str | None:
        """The device of the network; see `TakesTensors`."""
        return self._model.tensor_device

    def on(self, device: str | None, precision: Precision | None, /) -> CareamicsModel:
        """Return the model on a device; see `RunsOnDevice`."""
        moved = object.__new__(CareamicsModel)  # no file is read again
        vars(moved).update(vars(self), _model=self._model.on(device, precision))
        return moved

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self._arguments, self._network.device, self._network.precision)

    def __call__(self, batch: Pixels, /) -> Any:
        """Predict a batch; see `Model`. Returns tensors on the device of the network."""
        return self._model(batch)


def _open_again(
    arguments: tuple[Path, bool, Callable[..., Any] | None], device: str, precision: Precision | None
) -> CareamicsModel:
    path, trust, make_network = arguments
    return CareamicsModel(path, trust=trust, make_network=make_network).on(device, precision)


def _careamics_network(arguments: dict[str, Any]) -> Any:
    return require("careamics.models.unet", extra="careamics").UNet(**arguments)


def _load_weights(network: Any, checkpoint: CareamicsCheckpoint, path: Path) -> None:
    try:
        network.load_state_dict(checkpoint.weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the weights in {path} do not fit the UNet that it declares: {' '.join(str(error).split())[:300]}; use the version of "
            "CAREamics that saved it"
        ) from error


def _describe(checkpoint: CareamicsCheckpoint, identity: str) -> ModelDescription:
    network, n_dims = checkpoint.network, checkpoint.n_dims
    stride = 2 ** network["depth"]
    overlap = 2 * unet_reach(network["depth"], blur_pool=bool(network.get("n2v2")))
    return ModelDescription(
        size_step=(stride,) * n_dims,
        origin_multiple=(stride,) * n_dims,
        overlaps=(overlap,) * n_dims,
        n_dims=n_dims,
        in_channels=network["in_channels"],
        out_channels=network["num_classes"],
        out_dtype="float32",
        scale=(Fraction(1),) * n_dims,
        identity=identity,
    )


def unet_reach(depth: int, *, blur_pool: bool = False) -> int:
    """Return the largest distance, in voxels, from which a voxel of the input influences the prediction of CAREamics' UNet.

    Each level has two convolutions of 3 voxels before and after the next one. It halves the size by pooling 2 voxels, or 4
    with a blur, and doubles it by linear interpolation. Which voxels are pooled depends on the position modulo `2**depth`; the
    largest distance of all positions is returned.

    Parameters
    ----------
    depth : int
        Number of levels above the lowest one.
    blur_pool : bool
        Whether the pooling blurs, as in N2V2.

    Examples
    --------
    >>> [unet_reach(depth) for depth in (1, 2, 3)], unet_reach(2, blur_pool=True)
    ([10, 26, 58], 29)
    """
    return max(
        max(position - first, last - position)
        for position in range(2**depth)
        for first, last in [_interval(position, position, depth, blur_pool=blur_pool)]
    )


def _interval(first: int, last: int, depth: int, *, blur_pool: bool) -> tuple[int, int]:
    """Return the first and last voxel that a level of the network, and all below it, read for an interval of its output."""
    first, last = first - 2, last + 2  # two convolutions of the decoder, or of the lowest level
    if depth == 0:
        return first, last
    # Interpolation: voxel i lies between the voxels (i - 1) // 2 and (i - 1) // 2 + 1 of the level below.
    below, above = _interval((first - 1) // 2, (last - 1) // 2 + 1, depth - 1, blur_pool=blur_pool)
    pooled = (2 * below - 1, 2 * above + 2) if blur_pool else (2 * below, 2 * above + 1)
    return pooled[0] - 2, pooled[1] + 2  # two convolutions of the encoder
