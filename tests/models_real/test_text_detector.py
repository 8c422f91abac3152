"""The text detector of rapidocr: an ONNX network of free sizes, from a wheel that contains it."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import patchloom as pl

STRIDE = 32


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    import importlib.metadata  # noqa: PLC0415  # the wheel is installed for its data only

    try:
        files = importlib.metadata.files("rapidocr") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [file for file in files if "det" in file.name and file.suffix == ".onnx"]
    if not found:
        pytest.skip("the installed version of rapidocr contains no text detector: its models are downloaded")
    return found[0].locate()


def page(shape):
    """Draw lines of dark blocks on a bright page, as `CYX` from -1 to 1."""
    rng = np.random.default_rng(0)
    drawn = np.full(shape, 240, np.uint8)
    for top in range(20, shape[0] - 20, 40):
        for left in range(20, shape[1] - 20, 12):
            if rng.random() > 0.2:
                drawn[top : top + rng.integers(8, 18), left : left + rng.integers(4, 9)] = 20
    return np.repeat(drawn[None], 3, axis=0).astype(np.float32) / 127.5 - 1


def run(path, image):
    """Run the network on the whole image, mirrored at its end to a multiple of its stride."""
    padded = np.pad(image, [(0, 0), *((0, -side % STRIDE) for side in image.shape[1:])], mode="reflect")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    output = session.run(None, {session.get_inputs()[0].name: padded[None]})[0][0, 0]
    return output[tuple(map(slice, image.shape[1:]))]


def test_description(path):
    """Its layout, channels, sizes and stride are found in the file."""
    declared = pl.OnnxModel(path, threads=1).description

    assert declared.min_size == declared.size_step == declared.origin_multiple == (STRIDE, STRIDE)
    assert (declared.n_dims, declared.in_channels, declared.out_channels) == (2, 3, 1)


def test_one_tile(path):
    """One tile equals the whole image, whose sizes are no multiples of the stride."""
    image = page((299, 411))

    result = pl.predict(pl.OnnxModel(path, threads=1), image, axes="CYX", patch_size=(320, 416), progress=False)

    np.testing.assert_allclose(result[0], run(path, image), rtol=1e-4, atol=1e-4)


def test_tiles(path):
    """It averages over the whole tile in places, so tiles agree with the whole image on the text, and not to the bit."""
    image = page((450, 530))

    result = pl.predict(pl.OnnxModel(path, threads=1), image, axes="CYX", patch_size=320, overlaps=192, progress=False)

    expected = run(path, image)
    assert ((result[0] > 0.3) == (expected > 0.3)).mean() > 0.95
    assert expected.max() > 0.8
