"""Lightning's predictions, stitched into images as they come; needs the extra `lightning`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from patchloom.argument_checks import file_path, flag
from patchloom.errors import GeometryError, ModelOutputError
from patchloom.geometry.blend_weights import BlendWindow, check_blend
from patchloom.patching import TiledPatching
from patchloom.sinks import Pyramid, check_pyramid
from patchloom.specs.patch_specs import TileSpecs
from patchloom.stitching.tile_writer import TileWriter
from patchloom.torch.collation import decollate


class StitchingWriter(Callback):
    """A callback that turns the predictions of `trainer.predict` into images.

    No prediction is kept: a block of an image is written once its tiles are there, and `trainer.predict` returns `None`. The
    dataset is one of tiles, such as that of `PatchDataModule(prediction=...)`, and the module's `predict_step` returns a
    tensor `(B, C, (Z), Y, X)`.

    Parameters
    ----------
    output, blend, pyramid, overwrite
        As of `TileWriter`.

    Raises
    ------
    GeometryError
        When a prediction begins, if its dataset has no tiles or there are several processes.
    SinkError
        When a prediction begins, if the output exists, or its name has no known ending.

    Examples
    --------
    >>> from lightning.pytorch import Trainer                                                        # doctest: +SKIP
    >>> writer = StitchingWriter("denoised.ome.zarr")                                                # doctest: +SKIP
    >>> Trainer(callbacks=[writer]).predict(network, PatchDataModule(prediction=tiles, batch_size=8))  # doctest: +SKIP
    >>> writer.results                                                                               # doctest: +SKIP
    [PosixPath('denoised.ome.zarr')]
    """

    def __init__(
        self,
        output: str | Path | None = None,
        *,
        blend: BlendWindow | None = None,
        pyramid: Pyramid | None = "auto",
        overwrite: bool = False,
    ) -> None:
        if output is not None:
            file_path("output", output)
        check_pyramid(pyramid)
        flag("overwrite", overwrite)
        self.output = output
        self.blend = None if blend is None else check_blend(blend)
        self.pyramid = pyramid
        self.overwrite = overwrite
        self.results: list[NDArray[Any] | Path] = []
        """The images, or where they were written, after a prediction."""
        self._writer: TileWriter | None = None

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002  # Lightning's names
        """Check where the images are to go."""
        dataset = getattr(trainer.predict_dataloaders, "dataset", None)
        tiling, stacks = getattr(dataset, "patching", None), getattr(dataset, "image_stacks", None)
        if not isinstance(tiling, TiledPatching) or stacks is None:
            raise GeometryError(
                "there are no tiles to stitch: predict with one loader of a dataset with a TiledPatching"
            )
        if trainer.world_size > 1:
            raise GeometryError(
                f"there are {trainer.world_size} processes, and an image is written by one: use Trainer(devices=1)"
            )
        trainer.predict_loop.return_predictions = False
        self.results = []
        self._writer = TileWriter(
            stacks, tiling, self.output, blend=self.blend, pyramid=self.pyramid, overwrite=self.overwrite
        )

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_numbers: int) -> None:  # noqa: ARG002  # Lightning's names
        """Stitch one batch."""
        if not isinstance(outputs, torch.Tensor):
            raise ModelOutputError(f"predict_step returned a {type(outputs).__name__}: it must return a tensor")
        tiles = outputs.detach().cpu()
        tiles = tiles.float() if tiles.dtype == torch.bfloat16 else tiles  # which NumPy does not have
        specs = cast("list[TileSpecs]", decollate(batch.specs))
        cast("TileWriter", self._writer).add(tiles.numpy(), specs)

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002  # Lightning's names
        """Hand over the images."""
        writer, self._writer = cast("TileWriter", self._writer), None
        try:
            self.results = writer.finish()
        except BaseException:
            writer.abort()
            raise

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002  # Lightning's names
        """Remove what is not complete."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None
