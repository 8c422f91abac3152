"""Networks with strides, on odd sizes and without padding: tiles give what PyTorch gives for the whole image."""

from __future__ import annotations

import re

import numpy as np
import pytest

import patchloom as pl
from patchloom.errors import ModelOutputError

torch = pytest.importorskip("torch")
functional = torch.nn.functional
KERNELS = {size: torch.rand((1, 1, size, size), generator=torch.Generator().manual_seed(size)) for size in (2, 3, 4, 5)}


class Network(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, batch):
        return self.function(batch)


def whole(network, image):
    with torch.no_grad():
        return network(torch.from_numpy(image)[None, None])[0, 0].numpy()


def tiled(network, image, patch, overlaps, **arguments):
    return pl.predict(network, image, axes="YX", patch_size=patch, overlaps=overlaps, progress=False, **arguments)


def image_of(size):
    return np.random.default_rng(7).random(size, np.float32)


@pytest.mark.parametrize("blend", ["none", "hann"])
@pytest.mark.parametrize("overlap", [8, 9, 11])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_smaller_with_centered_seams(factor, overlap, blend):
    """An output that is smaller by a factor has its seams in the middle of overlaps; sizes of the image are no multiples of tiles."""
    network = Network(lambda x: functional.avg_pool2d(functional.conv2d(x, KERNELS[3], padding=1), factor))
    image = image_of((factor * 73, factor * 91))
    found = tiled(network, image, 12 * factor, overlap, seams="centered", blend=blend, halo=factor)
    np.testing.assert_allclose(found, whole(network, image), atol=1e-5)


def test_several_blocks_with_centered_seams():
    """Blocks begin at voxels of the output, also for a factor that does not divide the size of a chunk."""
    network = Network(lambda x: functional.max_pool2d(x, 3))
    image = image_of((780, 1023))
    planned = pl.plan(
        image,
        axes="YX",
        model=network,
        patch_size=48,
        overlaps=6,
        seams="centered",
        memory_limit=1_500_000,
        measure=True,
    )
    assert planned.n_blocks > 1
    again = pl.PredictionPlan.from_json(planned.to_json())
    np.testing.assert_array_equal(again.run(network, sources=image, progress=False), whole(network, image))


def test_several_factors_with_centered_seams():
    """Outputs that are smaller by 2, by 4 and as large as the image are predicted together."""
    network = Network(lambda x: (x, functional.avg_pool2d(x, 2), functional.avg_pool2d(x, 4)))
    image = image_of((132, 204))
    found = tiled(network, image, 36, 10, seams="centered", region={"y": (17, 99)})
    for output, factor in zip(found.values(), (1, 2, 4), strict=True):
        expected = whole(Network(lambda x, factor=factor: functional.avg_pool2d(x, factor)), image)
        np.testing.assert_allclose(output, expected[16 // factor : 100 // factor], atol=1e-6)


@pytest.mark.parametrize("patch", [32, 34, 46])
@pytest.mark.parametrize("seams", ["grid", "centered"])
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_valid_convolution_with_stride(size, seams, patch):
    """A valid convolution with stride 2 is accepted with even tiles, and gives the whole image's result inside of its margin."""
    network = Network(lambda x: functional.conv2d(x, KERNELS[size], stride=2))
    image = image_of((128, 162))
    found, margin = tiled(network, image, patch, 8, seams=seams), -(-(size - 2) // 2)
    # The image continues by the margin at its start: one voxel of a tile is one of the image if the padding is cut off.
    padded = np.pad(image, margin, "reflect")
    expected = whole(network, padded)
    np.testing.assert_allclose(found, expected[: found.shape[0], : found.shape[1]], atol=1e-5)


@pytest.mark.parametrize("patch", [30, 34, 38])
def test_valid_convolutions_between_poolings(patch):
    """Two valid convolutions, each with a pooling after it, have a margin of 3 voxels and a scale of 1/4."""
    network = Network(
        lambda x: functional.max_pool2d(
            functional.conv2d(functional.max_pool2d(functional.conv2d(x, KERNELS[3]), 2), KERNELS[3]), 2
        )
    )
    image = image_of((132, 160))
    expected = whole(network, np.pad(image, 3, "reflect"))
    np.testing.assert_allclose(tiled(network, image, patch, 14), expected, atol=1e-4)


UNEVEN = {
    "pooling": lambda x: functional.avg_pool2d(x, 4),
    "pooling and back": lambda x: functional.interpolate(functional.max_pool2d(x, 4), scale_factor=4.0),
    "rounded up": lambda x: functional.conv2d(x, KERNELS[3], padding=1, stride=2),
    "half and back": lambda x: functional.interpolate(functional.max_pool2d(x, 2), scale_factor=2.0),
}


@pytest.mark.parametrize("patch", [31, 33, 34, 35])
@pytest.mark.parametrize("kind", UNEVEN)
def test_uneven_sizes_are_refused_with_one_that_fits(kind, patch):
    """A size whose remainder a network does not use is refused, and the size in the message gives the whole image's result."""
    network, image = Network(UNEVEN[kind]), image_of((128, 160))
    try:
        found = tiled(network, image, patch, 8)
    except ModelOutputError as error:
        (fitting,) = set(re.findall(r"patch_size=\((\d+), \d+\)", str(error)))
        found = tiled(network, image, int(fitting), 8)
    np.testing.assert_allclose(found, whole(network, image), atol=1e-5)
