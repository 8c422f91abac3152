"""Runs a model on the batches of a run: on its device, and in parts if a batch does not fit into the device's memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelError, ModelOutputError
from patchloom.prediction.models.batch_prediction import check_predictions, model_failure, name_tiles, predict_on_device
from patchloom.prediction.models.memory_errors import is_out_of_memory, release_memory
from patchloom.prediction.models.model import Model, tensor_device
from patchloom.prediction.models.outputs import OutputSpec, crop_to_margin
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.postprocessing.casting import nan_refusal, refuse_nan, to_dtype
from patchloom.prediction.running.batch_reads import BatchRead
from patchloom.prediction.running.progress import warn_user
from patchloom.prediction.running.tile_reading import specs_in_images
from patchloom.specs.patch_specs import TileSpecs
from patchloom.tensors.deferred_checks import Check, deferred_checks
from patchloom.tensors.device_stream import BatchUploads, DeviceEvent, current_stream, device_failures
from patchloom.tensors.tensor_pixels import (
    Pixels,
    Tensor,
    can_round,
    has_tensors_of,
    is_tensor,
    load_torch,
    pixel_dtype_of,
    round_tensor,
    to_host,
)


class PredictedBatch(NamedTuple):
    """The predictions of a batch."""

    specs: list[TileSpecs]
    """The tiles that were run, in voxels of the input."""
    outputs: list[list[Pixels]]
    """For each output, the batch in parts `(B, C, (Z), Y, X)`, without margin."""
    checks: list[Check]
    """Run before blocks of these tiles are written: the device is not waited for earlier."""
    marks: tuple[tuple[Any, DeviceEvent], ...] = ()
    """When each device has computed them, if that was given to it by another thread."""

    def wait(self) -> PredictedBatch:
        """Let the streams of this thread wait until the predictions are computed; return them."""
        for device, event in self.marks:
            event.hold_up(current_stream(device))
        return self


NOTHING = PredictedBatch([], [], [])
"""The predictions of a batch of which no tile is run."""


class ModelOnDevice:
    """A model of a run, with the memory of its batches.

    Parameters
    ----------
    plan : Plan
        The plan.
    model : callable
        The model.
    """

    def __init__(self, plan: Plan, model: Model) -> None:
        self._plan = plan
        self._model = model
        self._device = tensor_device(model)
        dtypes = {plan.layout.batch_dtype(data_idx) for data_idx in range(len(plan.survey.stacks))}
        takes_tensors = self._device is not None and all(map(has_tensors_of, dtypes))
        self._uploads = BatchUploads(load_torch().device(self._device)) if takes_tensors else None
        self._portion = plan.layout.batch_size
        """Number of tiles that the model is given at once: less than a batch after the device ran out of memory."""

    @property
    def works_ahead(self) -> bool:
        """Whether the device works on a batch while the host prepares the next."""
        return self._uploads is not None

    def array(self, slot: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """Return the array of a slot, to read a batch into; None if any array will do."""
        if self._uploads is None:
            return None
        with device_failures():
            return self._uploads.array(slot, shape, dtype)

    def release(self, read: BatchRead) -> None:
        """Note that all work on a batch has been given to the device."""
        if self._uploads is not None and read.pixels is not None:
            self._uploads.release(read.slot)

    def predict(self, read: BatchRead) -> PredictedBatch:
        """Run the model on a batch.

        Raises
        ------
        SourceError
            If the batch could not be read.
        ModelError, ModelOutputError
            If the model fails. The message names the tiles.
        """
        if read.failure is not None:
            raise read.failure
        if read.tiles is None or read.pixels is None:
            return NOTHING
        specs = cast("list[TileSpecs]", read.tiles.to_specs())
        pixels: Pixels = read.pixels
        if self._uploads is not None:
            with device_failures():
                pixels = self._uploads.upload(read.slot, len(specs))
        predicted = PredictedBatch(specs, [[] for _ in self._plan.survey.outputs[specs[0]["data_idx"]]], [])
        start = 0
        while start < len(specs):
            is_whole = not start and len(specs) <= self._portion
            tiles = specs if is_whole else specs[start : start + self._portion]
            try:
                self._predict_portion(pixels if is_whole else pixels[start : start + len(tiles)], tiles, predicted)
            except (RuntimeError, MemoryError) as error:  # such as a ModelError
                self._check_divisible(error, tiles)
            else:
                start += len(tiles)
                continue
            # Not above, where the error still holds what the model had computed.
            self._back_off(len(tiles))
            pixels = self._pixels_again(read)
        return predicted

    def predict_for_another_thread(self, read: BatchRead) -> PredictedBatch:
        """Run the model on a batch; `PredictedBatch.wait` then lets the streams of another thread wait for the result."""
        predicted = self.predict(read)
        tensors = [part for parts in predicted.outputs for part in parts if is_tensor(part)]
        marks = {tensor.device: DeviceEvent.now(tensor.device) for tensor in tensors}
        return predicted._replace(marks=tuple(marks.items()))

    def _predict_portion(self, pixels: Pixels, specs: Sequence[TileSpecs], predicted: PredictedBatch) -> None:
        layout = self._plan.layout
        named = specs_in_images(layout, specs)
        deferring: AbstractContextManager[list[Check]] = deferred_checks() if self._uploads else nullcontext([])
        with deferring as of_input:
            predictions = predict_on_device(
                self._model, pixels, named, self._plan.survey.model.batch_size, device=self._device
            )
        predicted.checks.extend(partial(_check_input, check, named) for check in of_input)
        output_specs = self._plan.survey.outputs[specs[0]["data_idx"]]
        check_predictions(predictions, output_specs, layout.patch_size, named)
        finished = [self._without_margin(predictions[spec.name], spec, named) for spec in output_specs]
        for (core, checks), parts in zip(finished, predicted.outputs, strict=True):
            parts.append(core)
            predicted.checks.extend(checks)

    def _without_margin(
        self, prediction: Pixels, output_spec: OutputSpec, specs: Sequence[TileSpecs]
    ) -> tuple[Pixels, list[Check]]:
        """Cut off the margin of a prediction, and convert or check what has to name its tiles if it fails."""
        core = crop_to_margin(prediction, output_spec, self._plan.layout.margin)
        if self._plan.request.block_postprocess is not None:
            return core, []
        _, dtype = self._plan.layout.output_channels_and_dtype(output_spec)
        is_cropped = self._plan.request.blend is None
        if is_tensor(core) and is_cropped and not can_round(pixel_dtype_of(core), dtype):
            core = to_host(core)
        if is_tensor(core):
            return round_tensor(core, dtype) if is_cropped else core, _nan_checks(core, specs, dtype)
        if is_cropped:
            return to_dtype(core, dtype, specs), []
        refuse_nan(core, dtype, specs)
        return core, []

    def _check_divisible(self, error: Exception, specs: Sequence[TileSpecs]) -> None:
        """Raise an error, unless it is one of memory, and the model can be given fewer tiles at once."""
        if not is_out_of_memory(error):
            raise error
        where = f"the memory of the device is too small for {name_tiles(specs_in_images(self._plan.layout, specs))}"
        if self._plan.survey.model.batch_size is not None:
            raise ModelError(
                f"{where}: the model takes batches of {self._plan.survey.model.batch_size} tiles only, so export it with a smaller "
                "batch size, or use a device with more memory"
            ) from error
        if len(specs) == 1:
            raise ModelError(
                f"{where}: use a smaller patch_size, a lower precision, or a device with more memory ({error.__cause__})"
            ) from error

    def _back_off(self, n_tiles: int) -> None:
        """Halve the number of tiles that the model is given at once, and warn of it."""
        self._portion = n_tiles // 2
        release_memory()
        asked = self._plan.request.batch_size
        warn_user(
            f"a batch of {n_tiles} tiles does not fit into the memory of the device: from now on, the model is run on "
            f"{self._portion} at once{'' if asked is None else f', although batch_size is {asked}'}"
        )

    def _pixels_again(self, read: BatchRead) -> Pixels:
        """Return the pixels of a batch once more, as a model that failed may have changed them."""
        assert read.read_again is not None  # noqa: S101  # a batch with pixels has it
        pixels: Pixels = read.read_again()
        return pixels if self._uploads is None else load_torch().from_numpy(pixels).to(self._uploads.device)


def _check_input(check: Check, specs: Sequence[TileSpecs]) -> None:
    """Run a check of a model, and name its tiles if it fails."""
    try:
        with device_failures():
            check()
    except ModelError as error:
        raise model_failure(error, specs) from error


def _nan_checks(values: Tensor, specs: Sequence[TileSpecs], dtype: np.dtype[Any]) -> list[Check]:
    if not values.is_floating_point() or dtype.kind not in "uib":
        return []
    return [partial(_check_nan, values.isnan().flatten(1).any(1), specs, dtype)]


def _check_nan(is_nan: Tensor, specs: Sequence[TileSpecs], dtype: np.dtype[Any]) -> None:
    """Raise an error that names the tiles with NaN, which a dtype cannot store."""
    with device_failures():
        flags = is_nan.tolist()
    found = [spec for spec, is_found in zip(specs, flags, strict=True) if is_found]
    if found:
        raise ModelOutputError(nan_refusal(found, dtype))
