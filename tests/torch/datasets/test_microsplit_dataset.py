"""MicroSplit's three ways of training, and prediction: batches equal to what NumPy makes of their specifications alone."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
import torch

import patchloom as pl
from patchloom.torch import (
    EpochSampler,
    FlipRot90,
    MicroSplitDataset,
    Patch,
    PatchKey,
    PatchLoader,
    PatchPair,
    collate,
    decollate,
)

PADDINGS = ["reflect", "wrap", "constant", "edge"]


@dataclass
class Normalization:
    scale: object
    offset: object


def series(rng, *shapes: Sequence[int], dtype="u2") -> list[pl.ImageStack]:
    return [
        pl.ArrayStack(rng.integers(1, 5000, shape).astype(dtype), "SCZYX"[-len(shape) :] if len(shape) == 5 else "SCYX")
        for shape in shapes
    ]


def plan(stacks, size=(8, 8), n_patches=24, seed=3) -> pl.RandomPatching:
    return pl.RandomPatching([stack.data_shape for stack in stacks], size, n_patches=n_patches, seed=seed)


def scales(sample: np.ndarray, coords, size, n_scales: int, padding: str, *, scale_z: bool = True) -> np.ndarray:
    """Pad one channel of a whole sample, cut windows about the center out of it, and average their blocks."""
    result = []
    for scale in range(n_scales):
        factors = [2**scale if scale_z or axis >= len(size) - 2 else 1 for axis in range(len(size))]
        covered = [side * factor for side, factor in zip(size, factors, strict=True)]
        margin = max(covered)
        padded = np.pad(sample.astype(np.float64), margin, mode=padding)
        starts = [at + side // 2 - whole // 2 + margin for at, side, whole in zip(coords, size, covered, strict=True)]
        window = padded[tuple(slice(start, start + whole) for start, whole in zip(starts, covered, strict=True))]
        blocks = window.reshape([n for side, factor in zip(size, factors, strict=True) for n in (side, factor)])
        result.append(blocks.mean(axis=tuple(range(1, 2 * len(size), 2))))
    return np.stack(result)


def pixels(stacks, spec, channel: int) -> np.ndarray:
    """The whole sample that a channel of a patch was drawn from."""
    return np.asarray(stacks[spec["all_data_idx"][channel]].array)[spec["all_sample_idx"][channel]]


def assert_mixed(batch, weights: np.ndarray, sample_of, n_scales: int, padding: str, *, scale_z: bool = True) -> None:
    """Compare a batch of sums with what its specifications say."""
    for row, spec in enumerate(decollate(batch.specs)):
        size = spec["patch_size"]
        channels = np.stack(
            [
                scales(sample_of(spec, channel), coords, size, n_scales, padding, scale_z=scale_z)
                for channel, coords in enumerate(spec["all_coords"])
            ]
        )
        mixed = np.tensordot(weights[row], channels, axes=1)
        np.testing.assert_allclose(batch.input[row].numpy(), mixed, rtol=1e-5)
        np.testing.assert_array_equal(batch.target[row].numpy(), channels[:, 0].astype(np.float32))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("probability", [0, 0.5, 1])
def test_sums_of_one_series(rng, padding, probability):
    """Channels acquired together are summed at the places of their specifications."""
    stacks = series(rng, (2, 3, 40, 50), (1, 3, 64, 33))
    dataset = MicroSplitDataset(
        plan(stacks),
        targets=stacks,
        n_scales=3,
        padding=padding,
        alpha_ranges=[(0.2, 0.2), (1, 1), (3, 3)],
        uncorrelated_channel_prob=probability,
    )

    batch = collate(dataset.__getitems__(range(24)))

    assert isinstance(batch, PatchPair)
    assert batch.input.shape == (24, 3, 8, 8)
    assert batch.target.shape == (24, 3, 8, 8)
    assert batch.input.dtype == batch.target.dtype == torch.float32
    weights = np.tile([0.2, 1, 3], (24, 1))
    assert_mixed(batch, weights, lambda spec, channel: pixels(stacks, spec, channel)[channel], 3, padding)
    apart = [len(set(spec["all_coords"])) > 1 for spec in decollate(batch.specs)]
    assert any(apart) == (probability > 0)
    assert all(apart) == (probability == 1)


@pytest.mark.parametrize("scale_z", [True, False])
def test_volumes(rng, scale_z):
    """Volumes are mixed too, with context along Z or without."""
    stacks = series(rng, (1, 2, 12, 30, 34))
    dataset = MicroSplitDataset(
        plan(stacks, (4, 8, 6)), targets=stacks, n_scales=2, scale_z=scale_z, uncorrelated_channel_prob=1
    )

    batch = collate(dataset.__getitems__(range(10)))

    assert batch.input.shape == (10, 2, 4, 8, 6)
    halves = np.full((10, 2), 0.5)
    assert_mixed(
        batch, halves, lambda spec, channel: pixels(stacks, spec, channel)[channel], 2, "reflect", scale_z=scale_z
    )


def test_sums_of_several_series(rng):
    """Channels of different images are summed at the places of their specifications."""
    sources = [series(rng, (1, 1, 40, 50)), series(rng, (2, 2, 70, 33), (1, 2, 35, 64)), series(rng, (1, 1, 48, 48))]
    plans = [
        plan(stacks, seed=seed, n_patches=n) for seed, (stacks, n) in enumerate(zip(sources, (10, 24, 7), strict=True))
    ]
    dataset = MicroSplitDataset(
        plans, targets=sources, target_channels=[0, 1, 0], n_scales=2, alpha_ranges=[(1, 2), (0, 1), (5, 6)]
    )

    assert len(dataset) == 24, "of the longest plan"
    batch = collate(dataset.__getitems__(range(24)))

    def sample_of(spec, channel):
        return pixels(sources[channel], spec, channel)[1 if channel == 1 else 0]

    assert_mixed(batch, dataset.alphas(range(24)), sample_of, 2, "reflect")
    for spec, own in zip(decollate(batch.specs), plans[1], strict=True):
        assert spec["principal_channel"] == 1
        assert spec["coords"] == spec["all_coords"][1] == own["coords"]
        assert all(spec["all_coords"][c] in {other["coords"] for other in plans[c]} for c in range(3))


def test_acquired_inputs(rng):
    """Acquired inputs are paired with their targets."""
    inputs, targets = series(rng, (2, 2, 40, 50), (1, 2, 33, 64)), series(rng, (2, 3, 40, 50), (1, 3, 33, 64))
    dataset = MicroSplitDataset(
        plan(inputs),
        inputs=inputs,
        targets=targets,
        channels=[1],
        target_channels=[2, 0],
        n_scales=3,
        padding="wrap",
    )

    batch = collate(dataset.__getitems__(range(24)))

    assert isinstance(batch, PatchPair)
    for row, spec in enumerate(decollate(batch.specs)):
        at = slice(spec["coords"][0], spec["coords"][0] + 8), slice(spec["coords"][1], spec["coords"][1] + 8)
        whole, apart = (s[spec["data_idx"]].array[spec["sample_idx"]] for s in (inputs, targets))
        np.testing.assert_array_equal(
            batch.input[row], scales(whole[1], spec["coords"], (8, 8), 3, "wrap").astype("f4")
        )
        np.testing.assert_array_equal(batch.target[row], apart[[2, 0]][(slice(None), *at)].astype("f4"))


def test_prediction(rng):
    """In prediction, items have inputs only, and tile specifications."""
    inputs = series(rng, (1, 1, 40, 50))
    tiling = pl.TiledPatching([inputs[0].data_shape], (8, 8), (2, 2))
    dataset = MicroSplitDataset(tiling, inputs=inputs, n_scales=3)

    batch = collate(dataset.__getitems__(range(len(tiling))))

    assert isinstance(batch, Patch)
    assert decollate(batch.specs) == list(tiling)
    assert dataset.patching is tiling
    for row, spec in enumerate(tiling):
        expected = scales(inputs[0].array[0, 0], spec["coords"], (8, 8), 3, "reflect")
        np.testing.assert_array_equal(batch.input[row], expected.astype("f4"))


def test_one_scale(rng):
    """With one scale, the input is the patch alone."""
    stacks = series(rng, (1, 2, 9, 9))
    patch = MicroSplitDataset(plan(stacks, (8, 8)), targets=stacks)[0]
    np.testing.assert_allclose(patch.input[0], patch.target.mean(0), rtol=1e-6)


def test_one_read_for_all_scales(rng):
    """A window is read once, whatever the number of scales that are made of it."""
    stacks = series(rng, (1, 2, 90, 90))
    dataset = MicroSplitDataset(plan(stacks), targets=stacks, n_scales=4, uncorrelated_channel_prob=0.5)

    with mock.patch.object(
        pl.PatchExtractor, "extract_located", autospec=True, side_effect=pl.PatchExtractor.extract_located
    ) as read:
        dataset.__getitems__(range(24))

    assert [call.args[1].n_patches for call in read.call_args_list] == [24]


def test_places(rng):
    """Places of channels are independent; the principal channel is that of the plan."""
    stacks = series(rng, (1, 3, 500, 500))
    base = plan(stacks, (16, 16), n_patches=20_000)
    dataset = MicroSplitDataset(base, targets=stacks, uncorrelated_channel_prob=1, seed=11)

    table = dataset.patching.specs(range(20_000))

    coords = table.columns["all_coords"].astype(float)
    np.testing.assert_array_equal(coords[:, 0], base.specs(range(20_000)).columns["coords"])
    correlations = np.corrcoef(coords.reshape(20_000, 6), rowvar=False)
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 0.035, "five standard deviations"
    halves = (coords[..., 0] > 242).astype(int)
    together = np.bincount(halves @ [1, 2, 4], minlength=8) / 20_000
    assert np.abs(together - 1 / 8).max() < 0.015


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_probability(rng, probability):
    """Channels are uncorrelated with the given probability."""
    stacks = series(rng, (1, 2, 500, 500))
    dataset = MicroSplitDataset(plan(stacks, n_patches=5000), targets=stacks, uncorrelated_channel_prob=probability)

    coords = dataset.patching.specs(range(5000)).columns["all_coords"]

    share = (coords[:, 0] != coords[:, 1]).any(axis=1).mean()
    assert abs(share - probability) < 0.04


def test_collation(rng):
    """A batch of both kinds collates, and decollates to every place."""
    stacks = series(rng, (1, 2, 60, 60))
    dataset = MicroSplitDataset(plan(stacks), targets=stacks, uncorrelated_channel_prob=0.5)
    items = [dataset[index] for index in range(24)]

    batch = collate(items)

    assert decollate(batch.specs) == [item.specs for item in items] == list(dataset.patching)
    apart = {item.specs["all_coords"][0] != item.specs["all_coords"][1] for item in items}
    assert apart == {True, False}
    assert batch.specs["all_coords"].shape == (24, 2, 2)


def test_weights(rng):
    """Weights are uniform within their ranges, and differ between epochs."""
    stacks = series(rng, (1, 2, 60, 60))
    dataset = MicroSplitDataset(plan(stacks, n_patches=4000), targets=stacks, alpha_ranges=[(0.5, 1.5), (-1, 0)])

    alphas = dataset.alphas(range(4000))

    assert alphas.shape == (4000, 2)
    assert (alphas >= [0.5, -1]).all()
    assert (alphas <= [1.5, 0]).all()
    for channel, lowest in enumerate((0.5, -1)):
        counts = np.histogram(alphas[:, channel], bins=10, range=(lowest, lowest + 1))[0]
        assert ((counts - 400) ** 2 / 400).sum() < 30, "chi squared of 9 degrees"
    assert abs(np.corrcoef(alphas.T)[0, 1]) < 0.08
    assert not np.array_equal(alphas, dataset.at_epoch(1).alphas(range(4000)))
    assert np.array_equal(dataset.alphas([PatchKey(1, 7)]), dataset.at_epoch(1).alphas([7]))
    assert np.array_equal(alphas[[30, 2]], dataset.alphas([30, 2]))


def test_same_everywhere(rng):
    """A patch is the same alone, in a batch, and in another process."""
    stacks = series(rng, (1, 2, 60, 60))
    dataset = MicroSplitDataset(
        plan(stacks),
        targets=stacks,
        n_scales=2,
        alpha_ranges=[(0, 1), (0, 1)],
        uncorrelated_channel_prob=0.5,
        augmentation=FlipRot90(),
        seed=5,
    )
    keys = [PatchKey(3, index) for index in (4, 17, 9)]

    batch = collate(dataset.__getitems__(keys))

    for other in (dataset, pickle.loads(pickle.dumps(dataset))):
        for row, key in enumerate(keys):
            assert torch.equal(other[key].input, batch.input[row])
            assert torch.equal(other[key].target, batch.target[row])
    assert not torch.equal(dataset[PatchKey(4, 4)].input, dataset[PatchKey(3, 4)].input)


def test_augmentation(rng):
    """Input and target are flipped and turned alike."""
    stacks = series(rng, (1, 2, 60, 60))
    options = {"targets": stacks, "n_scales": 2, "alpha_ranges": [(0.5, 1), (1, 2)]}
    plain = MicroSplitDataset(plan(stacks), **options)
    turned = MicroSplitDataset(plan(stacks), **options, augmentation=FlipRot90())

    batch = collate(turned.__getitems__(range(24)))

    weights = torch.from_numpy(plain.alphas(range(24))).float()
    sums = torch.einsum("bc,bcyx->byx", weights, batch.target)
    torch.testing.assert_close(batch.input[:, 0], sums, rtol=1e-5, atol=1e-2)
    assert not torch.equal(batch.input, collate(plain.__getitems__(range(24))).input)


def test_loader(rng):
    """A loader yields the batches of the dataset."""
    stacks = series(rng, (1, 2, 60, 60))
    dataset = MicroSplitDataset(plan(stacks), targets=stacks, n_scales=2, uncorrelated_channel_prob=0.5)
    with PatchLoader(dataset, batch_size=7, sampler=EpochSampler(dataset, shuffle=False)) as loader:
        for epoch in range(2):
            batches = list(loader)
            assert [len(batch.input) for batch in batches] == [7, 7, 7, 3]
            specs = [spec for batch in batches for spec in decollate(batch.specs)]
            assert specs == list(dataset.patching.at_epoch(epoch))


def test_resize(rng):
    """Resized scales are those of the extractor."""
    inputs = series(rng, (1, 1, 60, 60))
    dataset = MicroSplitDataset(plan(inputs), inputs=inputs, n_scales=3, downscale="resize")
    expected = pl.extract_lateral_context(
        pl.PatchExtractor(inputs, "reflect"), dataset.patching[:], 3, downscale="resize"
    )
    np.testing.assert_array_equal(collate(dataset.__getitems__(range(24))).input, expected[:, 0])


def test_normalization(rng):
    """Targets are normalized by channel, and sums by one scale and offset."""
    stacks = series(rng, (1, 2, 60, 60))
    normalized = {
        "normalization": Normalization(0.5, -3.0),
        "target_normalization": Normalization([2.0, 0.1], [1.0, -1.0]),
    }
    options = {"targets": stacks, "n_scales": 2, "uncorrelated_channel_prob": 0.5}
    raw = collate(MicroSplitDataset(plan(stacks), **options).__getitems__(range(24)))

    batch = collate(MicroSplitDataset(plan(stacks), **options, **normalized).__getitems__(range(24)))

    torch.testing.assert_close(batch.input, raw.input * 0.5 - 3)
    by_channel = torch.tensor([2.0, 0.1])[:, None, None], torch.tensor([1.0, -1.0])[:, None, None]
    torch.testing.assert_close(batch.target, raw.target * by_channel[0] + by_channel[1])


@pytest.mark.parametrize(("dtype", "level"), [("f8", 1e8), ("u4", 4e9), ("i8", 1e12), ("u2", 60_000)])
def test_large_pixels(rng, dtype, level):
    """Normalization keeps the differences of large pixels."""
    stacks = [pl.ArrayStack((level + rng.integers(-3, 4, (1, 2, 40, 50))).astype(dtype), "SCYX") for _ in range(2)]
    values, n_scales = Normalization(0.5, -0.5 * level), 3
    options = {"target_normalization": values, "n_scales": n_scales, "normalization": values}

    mixed = collate(MicroSplitDataset(plan(stacks), targets=stacks, **options).__getitems__(range(24)))
    one_channel = [pl.ArrayStack(stack.array[:, :1], "SCYX") for stack in stacks]
    paired = collate(
        MicroSplitDataset(plan(stacks), inputs=one_channel, targets=stacks, **options).__getitems__(range(24))
    )

    for batch, weights in ((mixed, [0.5, 0.5]), (paired, [1, 0])):
        for row, spec in enumerate(decollate(batch.specs)):
            sample = stacks[spec["data_idx"]].array[0].astype(np.float64) - level  # without error, and only then scaled
            channels = np.stack([scales(one, spec["coords"], (8, 8), n_scales, "reflect") for one in sample]) / 2
            np.testing.assert_allclose(batch.input[row].numpy(), np.tensordot(weights, channels, axes=1), atol=2e-4)
            np.testing.assert_allclose(batch.target[row].numpy(), channels[:, 0], atol=2e-4)


def test_normalization_of_sources(rng):
    """Every series and image can have its own scale and offset."""
    sources = [series(rng, (1, 1, 40, 50), (1, 1, 44, 44)), series(rng, (1, 1, 64, 33))]
    plans = [plan(stacks, seed=seed) for seed, stacks in enumerate(sources)]
    values = [Normalization(2.0, 1.0), Normalization(0.5, 0.0)]
    raw = collate(MicroSplitDataset(plans, targets=sources).__getitems__(range(24)))
    batch = collate(MicroSplitDataset(plans, targets=sources, target_normalization=values).__getitems__(range(24)))
    torch.testing.assert_close(batch.target[:, 0], raw.target[:, 0] * 2 + 1)
    torch.testing.assert_close(batch.target[:, 1], raw.target[:, 1] * 0.5)
    torch.testing.assert_close(batch.input, raw.input)

    inputs = sources[0]
    of_images = [Normalization(2.0, 1.0), Normalization(3.0, 0.0)]
    paired = {"inputs": inputs, "targets": inputs, "n_scales": 2}
    raw = collate(MicroSplitDataset(plans[0], **paired).__getitems__(range(24)))
    batch = collate(MicroSplitDataset(plans[0], **paired, normalization=of_images).__getitems__(range(24)))
    image = raw.specs["data_idx"].tolist()
    scale, offset = torch.tensor([2.0, 3.0])[image], torch.tensor([1.0, 0.0])[image]
    torch.testing.assert_close(batch.input, raw.input * scale[:, None, None, None] + offset[:, None, None, None])
    assert torch.equal(batch.target, raw.target)


def test_cache(rng):
    """Each chunk is decoded once."""

    class Chunked(pl.ArrayStack):
        chunk_shape = shard_shape = (1, 1, 16, 16)

    stacks = [Chunked(rng.integers(0, 255, (1, 2, 64, 64), np.uint8), "SCYX")]
    options = {"targets": stacks, "n_scales": 3, "uncorrelated_channel_prob": 0.5}
    with pl.ChunkCache(2**20) as cache:
        dataset = MicroSplitDataset(plan(stacks), **options, cache=cache)
        batch = collate(dataset.__getitems__(range(24)))
        dataset.at_epoch(1).__getitems__(range(24))
        assert cache.n_decodes == 2 * 4 * 4
    assert torch.equal(batch.input, collate(MicroSplitDataset(plan(stacks), **options).__getitems__(range(24))).input)


def test_nan(rng):
    """A NaN in the context of a patch is an error, or kept."""
    stacks = series(rng, (1, 2, 64, 64), dtype="f4")
    stacks[0].array[0, 1, 20, 20] = np.nan
    near = [{"data_idx": 0, "sample_idx": 0, "coords": (24, 24), "patch_size": (8, 8)}]
    base = pl.FixedPatching(near)
    with pytest.raises(pl.SourceError, match=r"NaN in the input of the patch \{'data_idx': 0.*'coords': \(24, 24\)"):
        MicroSplitDataset(base, targets=stacks, n_scales=2)[0]
    assert not torch.isnan(MicroSplitDataset(base, targets=stacks)[0].input).any()
    assert torch.isnan(MicroSplitDataset(base, targets=stacks, n_scales=2, nan="keep")[0].input).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha_ranges": [(0, 1)]}, "alpha_ranges has 1 ranges for 2 channels"),
        ({"alpha_ranges": [(0, 1), (1, 0.5)]}, r"\(1, 0.5\) for channel 1: .* the lowest weight first"),
        ({"alpha_ranges": [(0, 1), (0, float("nan"))]}, "two finite numbers"),
        ({"alpha_ranges": [(0, 1), 0.5]}, "alpha_ranges has 0.5 for channel 1"),
        ({"uncorrelated_channel_prob": 1.5}, r"uncorrelated_channel_prob is 1\.5: it must be from 0 to 1"),
        ({"uncorrelated_channel_prob": -0.1}, r"uncorrelated_channel_prob is -0\.1"),
        ({"target_channels": [0, 2]}, "channels has 2, but array has 2"),
        ({"target_channels": [1]}, "the targets have 1 channel: give at least 2, or inputs"),
        ({"n_scales": 0}, "n_scales is 0: it must be from 1"),
        (
            {"n_scales": 4},
            r"n_scales is 4: scale 3 covers 64 voxels along Y, but image stack 0 has 60.* at most 3 scales",
        ),
        ({"padding": "constant?"}, "padding is 'constant\\?'"),
        ({"downscale": "max"}, "downscale is 'max'"),
        ({"channels": [0]}, "channels is \\[0\\], but the inputs are sums of the targets: leave it out"),
        ({"nan": "skip"}, "nan is 'skip': it must be one of 'raise', 'keep'"),
        ({"normalization": Normalization([1, 2], 0)}, "inputs that are sums of channels have one finite number"),
        ({"targets": None}, "targets and inputs are None: give targets, inputs, or both"),
        ({"targets": [[]]}, "there is one plan, and targets is a series for each channel"),
    ],
)
def test_wrong_arguments(rng, options, message):
    """Wrong arguments are refused."""
    stacks = series(rng, (1, 2, 60, 70))
    with pytest.raises(pl.GeometryError, match=message):
        MicroSplitDataset(plan(stacks), **{"targets": stacks, **options})


def test_wrong_targets(rng):
    """Plans and targets that do not fit are refused."""
    sources = [series(rng, (1, 1, 60, 70)), series(rng, (1, 2, 60, 70))]
    plans = [plan(stacks) for stacks in sources]
    with pytest.raises(
        pl.GeometryError, match="targets 1 have 2 channels: choose one of each series by target_channels"
    ):
        MicroSplitDataset(plans, targets=sources)
    with pytest.raises(pl.GeometryError, match="target_channels has 1 entries for 2 plans"):
        MicroSplitDataset(plans, targets=sources, target_channels=[0])
    with pytest.raises(pl.GeometryError, match="targets has 1 entries for 2 plans"):
        MicroSplitDataset(plans, targets=sources[:1])
    with pytest.raises(pl.GeometryError, match="there are 2 plans, and targets is one series"):
        MicroSplitDataset(plans, targets=sources[0])
    with pytest.raises(
        pl.GeometryError, match=r"uncorrelated_channel_prob is 0\.5, but each channel has images of its own"
    ):
        MicroSplitDataset(plans, targets=sources, target_channels=[0, 1], uncorrelated_channel_prob=0.5)
    with pytest.raises(pl.GeometryError, match="the patching is for images of shapes"):
        MicroSplitDataset(plans, targets=[series(rng, (1, 1, 60, 60)), sources[1]], target_channels=[0, 1])


def test_wrong_inputs(rng):
    """Inputs and targets that do not fit are refused."""
    inputs, targets = series(rng, (1, 1, 60, 70)), series(rng, (1, 2, 60, 70))
    with pytest.raises(pl.GeometryError, match=r"alpha_ranges is .*, but there are inputs, so nothing is mixed"):
        MicroSplitDataset(plan(inputs), inputs=inputs, targets=targets, alpha_ranges=[(0, 1), (0, 1)])
    with pytest.raises(pl.GeometryError, match=r"uncorrelated_channel_prob is 0\.5, but there are inputs"):
        MicroSplitDataset(plan(inputs), inputs=inputs, uncorrelated_channel_prob=0.5)
    with pytest.raises(pl.GeometryError, match=r"the inputs have 2 channels.* choose one, such as channels=\[0\]"):
        MicroSplitDataset(plan(targets), inputs=targets)
    with pytest.raises(pl.GeometryError, match="its target, array, has"):
        MicroSplitDataset(plan(inputs), inputs=inputs, targets=series(rng, (1, 2, 60, 71)))
    with pytest.raises(pl.GeometryError, match="there are several plans for one series of inputs"):
        MicroSplitDataset([plan(inputs)] * 2, inputs=inputs)
    with pytest.raises(pl.GeometryError, match="are not sums, so channels have no weights"):
        MicroSplitDataset(plan(inputs), inputs=inputs).alphas([0])
