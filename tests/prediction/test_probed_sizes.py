"""Without `patch_size`, a model is probed, and its tiles give the whole image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchloom as pl
from patchloom.errors import GeometryError


class Strided(torch.nn.Module):
    """A small U-Net of stride 4."""

    def __init__(self, norm: type[torch.nn.Module] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv = torch.nn.Conv2d
        self.first = torch.nn.Sequential(conv(1, 4, 3, padding=1), torch.nn.ReLU(), conv(4, 4, 3, padding=1))
        self.second = torch.nn.Sequential(conv(4, 8, 3, stride=2, padding=1), torch.nn.ReLU())
        self.third = torch.nn.Sequential(conv(8, 8, 3, padding=1), torch.nn.MaxPool2d(2), torch.nn.ReLU())
        self.norm = torch.nn.Identity() if norm is None else norm(8)
        self.up = torch.nn.ConvTranspose2d(8, 4, 4, stride=4)
        self.last = conv(8, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.first(x)
        up = self.up(self.norm(self.third(self.second(kept))))
        return self.last(torch.cat([kept, up], 1))


def whole(network: torch.nn.Module, image: np.ndarray, stride: int = 4) -> np.ndarray:
    """Run a network on the whole image, mirrored at its end to a multiple of the stride."""
    padded = np.pad(image, [(0, -side % stride) for side in image.shape], mode="reflect")
    with torch.inference_mode():
        output = network(torch.from_numpy(padded[None, None]))[0, 0].numpy()
    return output[tuple(map(slice, image.shape))]


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.ptp(wanted))


LARGE = np.random.default_rng(1).random((2301, 623), np.float32)
IMAGE = np.random.default_rng(0).random((623, 502), np.float32)


@pytest.mark.parametrize("image", [IMAGE, LARGE], ids=["one tile", "tiles"])
@pytest.mark.parametrize("blend", [None, "hann"])
def test_new_user(image: np.ndarray, blend: str | None) -> None:
    """A network of stride 4 gives the whole image without an option, in one tile or in several."""
    network = Strided().eval()
    result = pl.predict(network, image, axes="YX", blend=blend, progress=False)
    assert error(result, whole(network, image)) < 1e-5


def test_dropped_remainder() -> None:
    """A network that takes every size, but drops the rest of its stride, gets tiles of whole strides."""
    conv = torch.nn.Conv2d
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        conv(1, 4, 3, padding=1), torch.nn.MaxPool2d(4), conv(4, 1, 1), torch.nn.Upsample(scale_factor=4)
    )
    image = LARGE[:1023, :602]
    result = pl.predict(network, image, axes="YX", progress=False)
    assert error(result, whole(network, image)) < 1e-5


def test_tiles() -> None:
    """An image that is not much larger than a tile is one tile; of a larger one, tiles start on the stride."""
    one, several = (pl.plan(image, model=Strided().eval(), axes="YX") for image in (IMAGE, LARGE))
    assert (one.n_tiles, one.layout.patch_size) == (1, (624, 504))
    assert several.n_tiles > 1
    assert several.tiling.origin_multiple == (4, 4)


def test_said() -> None:
    """The plan contains what was chosen and why, as text and in its summary, and keeps it in JSON."""
    planned = pl.plan(IMAGE, model=Strided().eval(), axes="YX")
    assert "chosen" in str(planned)
    assert planned.summary()["chosen"].startswith("tiles of 624 × 504")
    assert pl.PredictionPlan.from_json(planned.to_json()) == planned


def test_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A run shows the choice on standard error, unless progress is declined."""
    network = Strided().eval()
    pl.predict(network, IMAGE, axes="YX", progress=True)
    assert "tiles of 624 × 504" in capsys.readouterr().err
    pl.predict(network, IMAGE, axes="YX", progress=False)
    assert not capsys.readouterr().err


class Counted:
    """A model that counts its calls; it is identified by its name alone."""

    def __init__(self, **described: Any) -> None:
        self.description = pl.ModelDescription(**described)
        self.n_calls = 0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.n_calls += 1
        return batch


def test_kept() -> None:
    """A probe is kept for the same model, and made again for another number of channels."""
    model = Counted(identity="kept by its identity")
    first = pl.plan(IMAGE, model=model, axes="YX")
    n_calls = model.n_calls
    assert n_calls
    assert pl.plan(IMAGE[:100], model=model, axes="YX").layout.patch_size == (100, 502)
    assert model.n_calls == n_calls
    pl.plan(IMAGE[None].repeat(2, 0), model=model, axes="CYX")
    assert model.n_calls > n_calls
    assert first.n_tiles == 1


@pytest.mark.parametrize(
    ("declared", "given"),
    [
        ({}, {"patch_size": 64}),
        ({"patch_size": (64, 64)}, {}),
        ({"size_step": (8, 8)}, {}),
        ({"preferred_patch_size": (64, 64)}, {}),
    ],
    ids=["given", "fixed", "rule", "preferred"],
)
def test_not_probed(declared: dict[str, Any], given: dict[str, Any]) -> None:
    """A model is not run for a plan if its tile size is given or declared."""
    model = Counted(**declared)
    pl.plan(IMAGE, model=model, axes="YX", **given)
    assert model.n_calls == 0


def test_given_overlap() -> None:
    """An overlap, a stride and a batch size that are given are used as they are."""
    planned = pl.plan(
        IMAGE.repeat(8, 0), model=Counted(), axes="YX", overlaps=16, origin_multiple=3, batch_size=2, memory_limit=2**26
    )
    assert planned.tiling.overlaps[0] >= 16
    assert planned.summary()["overlaps"][1] == 16
    assert (planned.tiling.origin_multiple, planned.layout.batch_size) == ((3, 3), 2)


def test_refused() -> None:
    """If the model refuses every tile, or takes planes only, the error contains that and what to do."""

    def refusing(batch: np.ndarray) -> np.ndarray:
        raise ValueError("never")

    def flat(batch: np.ndarray) -> np.ndarray:
        assert batch.ndim == 4
        return batch

    with pytest.raises(
        GeometryError, match=r"patch_size is not given, and the model refused.*never.*: give patch_size"
    ):
        pl.predict(refusing, IMAGE, axes="YX", progress=False)
    with pytest.raises(GeometryError, match="takes 2D tiles: give two numbers"):
        pl.predict(flat, np.zeros((20, 40, 40), np.float32), axes="ZYX", progress=False)


def test_resumed(tmp_path: Path) -> None:
    """A resumed run uses the tiles of the stored plan, and does not probe."""
    image = np.random.default_rng(0).random((3000, 600), np.float32)
    calls: list[tuple[int, ...]] = []

    class Failing(Counted):
        def __call__(self, batch: np.ndarray) -> np.ndarray:
            calls.append(batch.shape)
            if fails and len(calls) > fails:
                raise RuntimeError("off")
            return batch

    fails = 0
    options = {"axes": "YX", "memory_limit": 24 * 2**20, "progress": False}
    pl.predict(Failing(identity="resumed"), image, tmp_path / "whole.ome.zarr", **options)
    planned = pl.plan(image, model=Failing(identity="resumed"), axes="YX", memory_limit=24 * 2**20)
    n_tiles = planned.n_tiles
    assert planned.n_blocks > 1
    calls.clear()
    fails = n_tiles
    with pytest.raises(pl.errors.ModelError):
        pl.predict(Failing(identity="resumed"), image, tmp_path / "part.ome.zarr", **options)
    calls.clear()
    fails = 0
    pl.predict(Failing(identity="not probed"), image, tmp_path / "part.ome.zarr", resume_anyway=True, **options)
    assert len(calls) <= n_tiles
    for path in (tmp_path / "whole.ome.zarr").rglob("c/*"):
        if path.is_file():
            assert (
                path.read_bytes()
                == (tmp_path / "part.ome.zarr" / path.relative_to(tmp_path / "whole.ome.zarr")).read_bytes()
            )


def test_whole_tile() -> None:
    """A network that looks at the whole tile is named as such."""
    network = Strided(norm=torch.nn.InstanceNorm2d).eval()
    planned = pl.plan(LARGE, model=network, axes="YX")
    assert "looks at the whole tile" in planned.survey.chosen


def test_given_too_small() -> None:
    """An overlap that is too small is used, and one warning contains the number that is needed."""
    network = Strided().eval()
    with pytest.warns(RuntimeWarning, match="overlaps is 4 × 4, and the model looks .* voxels: give .* or more"):
        planned = pl.plan(LARGE, model=network, axes="YX", overlaps=4)
    assert planned.summary()["overlaps"] == [4, 4]
