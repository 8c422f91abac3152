"""A GPU: the same bytes as arrays, without waiting for it, within its memory. Skipped where there is none; `make test-gpu`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from device_cases import CASES, WRAPPED_CASES, check_same_bytes, check_wrapped, make_image, options_of, processed
from patchloom.prediction.models.replicas import ReplicatedModel
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = "cuda:0"


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 20, 3: 8})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize(("name", "blend", "n_dims"), CASES)
def test_same_bytes(name: str, blend: Any, n_dims: int) -> None:
    """Tensors on the GPU give the bytes of arrays, for every output, blend and postprocessing."""
    check_same_bytes(name, blend, n_dims, GPU)


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize(("name", "blend", "n_dims"), WRAPPED_CASES)
def test_wrapped(name: str, blend: Any, n_dims: int) -> None:
    """Models around a model on the GPU give the bytes that they give around one that returns arrays."""
    check_wrapped(name, blend, n_dims, GPU)


class Copied:
    """A model whose predictions are copied to the host at once."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self.model(batch).cpu().numpy()


def network(n_dims: int = 2) -> Any:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d if n_dims == 2 else torch.nn.Conv3d
    layers = [conv(1, 8, 3, padding=1), torch.nn.ReLU(), conv(8, 3, 3, padding=1)]
    return torch.nn.Sequential(*layers).eval().to(GPU)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("blend", [None, "hann"])
@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize("stored", [False, True])
def test_network(precision: Any, blend: Any, n_dims: int, stored: bool, tmp_path: Any) -> None:
    """A network on the GPU gives the bytes that it gives if each batch is copied, also if batches are read ahead."""
    model = pl.TorchModel(network(n_dims), precision=precision)
    options = options_of(n_dims, blend, {"postprocess": "uint16*1000", "normalize": pl.MeanStd()})
    source: Any = np.tile(make_image(n_dims), [4] * n_dims)
    if stored:
        np.save(tmp_path / "image.npy", source)
        source = tmp_path / "image.npy"
    found = pl.predict(model, source, **options)
    expected = pl.predict(Copied(model), source, **options)
    assert found.tobytes() == expected.tobytes()


def in_float16() -> Any:
    return pl.TorchModel(network().half())


WITHOUT_WAITING: dict[str, Any] = {
    "bfloat16": lambda: pl.TorchModel(network(), precision="bfloat16"),
    "processed": lambda: processed(pl.TorchModel(network())),
    "augmented": lambda: pl.AugmentedModel(pl.TorchModel(network())),
    "ensemble": lambda: pl.EnsembleModel([pl.TorchModel(network())] * 3),
}


@pytest.mark.parametrize("name", WITHOUT_WAITING)
@pytest.mark.parametrize("blend", [None, "hann"])
def test_does_not_wait(blend: Any, name: str) -> None:
    """No batch makes the host wait for the GPU."""
    image = np.random.default_rng(0).random((512, 512), np.float32)
    model = WITHOUT_WAITING[name]()
    options = {"axes": "YX", "patch_size": 64, "overlaps": 16, "batch_size": 4, "blend": blend}
    planned = pl.plan(image, model=model, measure=True, **options)
    expected = planned.run(model, sources=image, progress=False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = planned.run(model, sources=image, progress=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("blend", [None, "hann"])
def test_float16(blend: Any) -> None:
    """A network with weights in float16 gives the bytes that it gives for arrays, and refuses values that are too large."""
    image = np.random.default_rng(0).integers(0, 60_000, (300, 200)).astype(np.uint16)
    options = {"axes": "YX", "patch_size": 64, "overlaps": 16, "batch_size": 4, "blend": blend, "progress": False}
    assert (
        pl.predict(in_float16(), image, **options).tobytes()
        == pl.predict(Copied(in_float16()), image, **options).tobytes()
    )
    image[250, 150] = 65_535
    with pytest.raises(pl.ModelError, match=r"failed on the tiles at .*has the value 65535, and float16 ends at 65504"):
        pl.predict(in_float16(), image, **options)


@pytest.mark.parametrize("n_draws", [2, 7])
def test_draws(n_draws: int) -> None:
    """Draws on the GPU have the moments that NumPy computes from the same draws."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Dropout(), torch.nn.Conv2d(8, 2, 3, padding=1)]
    model = pl.TorchModel(torch.nn.Sequential(*layers).eval().to(GPU)).with_dropout()
    image = np.random.default_rng(0).random((300, 200), np.float32)
    options = {"axes": "YX", "patch_size": 64, "overlaps": 16, "batch_size": 4, "blend": "hann", "progress": False}
    found = pl.predict(pl.MonteCarloModel(model, n_draws), image, **options)
    expected = pl.predict(pl.MonteCarloModel(Copied(model), n_draws), image, **options)
    assert found["std"].any()
    for name in ("mean", "std"):
        assert found[name].tobytes() == expected[name].tobytes()


def test_slow_network() -> None:
    """Memory of batches is not overwritten while a slow network still reads it."""

    class Slow(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            torch.cuda._sleep(20_000_000)
            return x * 2

    image = np.random.default_rng(0).random((700, 500), np.float32)
    for blend in (None, "mean"):
        options = {"axes": "YX", "patch_size": 64, "overlaps": 0, "batch_size": 8, "blend": blend, "progress": False}
        assert np.array_equal(pl.predict(Slow(), image, device=GPU, **options), image * 2)


def test_out_of_memory() -> None:
    """A batch that does not fit into the memory of the GPU is halved, and the memory is given back."""
    image = np.random.default_rng(0).random((1024, 1024), np.float32)
    options = {"axes": "YX", "patch_size": 256, "overlaps": 32, "progress": False}
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    model = pl.TorchModel(
        torch.nn.Sequential(torch.nn.Conv2d(1, 256, 3, padding=1), torch.nn.Conv2d(256, 1, 1)).to(GPU)
    )
    torch.cuda.set_per_process_memory_fraction(600 * 2**20 / total)  # a tile takes 64 MiB in the first layer
    try:
        with pytest.warns(RuntimeWarning, match="at once, although batch_size is 25"):
            found = pl.predict(model, image, batch_size=25, **options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    expected = pl.predict(model, image, batch_size=1, **options)
    np.testing.assert_allclose(found, expected, atol=1e-2)  # another batch, another algorithm, in tf32


def test_blocks_that_do_not_fit() -> None:
    """If the GPU has no memory for blocks, they are put together on the host, to the same bytes."""
    image = np.random.default_rng(0).random((4096, 4096), np.float32)
    options = {"axes": "YX", "patch_size": 256, "overlaps": 32, "batch_size": 4, "blend": "hann", "progress": False}
    model = pl.TorchModel(network())
    expected = pl.predict(model, image, **options)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    filler = torch.empty(free - 400 * 2**20, dtype=torch.uint8, device=GPU)
    with pytest.warns(RuntimeWarning, match="stitched in the memory of the host"):
        found = pl.predict(model, image, **options)
    del filler
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("blend", [None, "hann"])
def test_replicas(blend: Any) -> None:
    """Two replicas on one GPU give the bytes of one."""
    image = np.random.default_rng(0).random((700, 600), np.float32)
    options = {"axes": "YX", "patch_size": 64, "overlaps": 16, "batch_size": 4, "blend": blend, "progress": False}
    one = pl.predict(network(), image, device=GPU, **options)
    two = pl.predict(network(), image, device=f"{GPU},{GPU}", **options)
    assert one.tobytes() == two.tobytes()
    model = pl.TorchModel(network())
    mixed = pl.predict(ReplicatedModel((model, Copied(model))), image, **options)  # one replica returns arrays
    assert mixed.tobytes() == one.tobytes()


def test_memory_is_released() -> None:
    """A run leaves no memory on the GPU but a few weights of tiles."""
    image = np.random.default_rng(0).random((2048, 2048), np.float32)
    model = pl.TorchModel(network())
    options = {"axes": "YX", "patch_size": 128, "overlaps": 32, "batch_size": 8, "blend": "hann", "progress": False}
    pl.predict(model, image, **options)
    before = torch.cuda.memory_allocated()
    with warnings.catch_warnings():
        pl.predict(model, image, **options)
    assert torch.cuda.memory_allocated() <= before
