"""Devices and precision: their names, and the models that are moved."""

import numpy as np
import pytest

import patchloom as pl
from patchloom.prediction.models.devices import move_model, parse_devices
from patchloom.prediction.models.prepare import prepare_model


class Movable:
    """A model that notes where it runs."""

    def __init__(self, device="cpu", precision=None):
        self.device, self.precision = device, precision

    def on(self, device, precision, /):
        return Movable(device or self.device, precision or self.precision)

    def __call__(self, batch):
        return batch


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "", "cuda:0,", "auto,cpu", 0, [], ["cuda", 1], "CPU"])
def test_unknown_devices(device):
    """A device that has no such name is refused, with the names that there are."""
    with pytest.raises(pl.ArgumentError, match="device is"):
        parse_devices(device)


def test_moved():
    """A model that can be moved is moved; the one that was given stays where it is."""
    model = Movable()
    moved = prepare_model(model, "cuda", "bfloat16")
    assert (moved.device, moved.precision, model.device) == ("cuda:0", "bfloat16", "cpu")


def test_not_moved():
    """Without a device and a precision, a model is used as it is."""
    model = Movable()
    assert prepare_model(model) is model


@pytest.mark.parametrize("arguments", [{"device": "cpu"}, {"precision": "float32"}])
def test_functions(arguments):
    """A function chooses its device and precision itself, and an error names what to leave out."""
    (name,) = arguments
    with pytest.raises(pl.ArgumentError, match=f"leave {name} out"):
        pl.predict(lambda batch: batch, np.zeros((8, 8)), axes="YX", patch_size=8, **arguments)


def test_auto_leaves_functions():
    """`auto` is right for every model."""
    assert move_model(np.negative, "auto", None) is np.negative


def test_augmented_model():
    """The model inside an augmented model is moved."""
    moved = prepare_model(pl.AugmentedModel(Movable()), "mps")
    assert moved.model.device == "mps"
