"""CAREamics' dataset, loaders, filters and stitching work with our patchings."""

from __future__ import annotations

import sys
from collections import Counter

import careamics.dataset.patching as theirs
import numpy as np
import pytest
from careamics.config.data.data_config import DataConfig
from careamics.config.data.patch_filter import MaskPatchFilterConfig, MeanStdPatchFilterConfig
from careamics.dataset.dataset import CareamicsDataset
from careamics.dataset.factory.filter_bg import filter_background, filter_background_with_mask
from careamics.dataset.factory.val_split import create_val_split
from careamics.dataset.image_stack_loader import load_arrays
from careamics.dataset.patch_constructor import BasicPatchConstr, PredMsPatchConstr
from careamics.dataset.patch_extractor import PatchExtractor as TheirExtractor
from careamics.lightning.data.grouped_index_sampler import GroupedIndexSampler
from careamics.lightning.prediction import convert_prediction
from torch.utils.data import DataLoader

import patchloom as ours

SHAPES = [(2, 1, 70, 50), (1, 1, 40, 90)]
SIZE = (32, 32)


@pytest.fixture
def images(rng) -> list[np.ndarray]:
    return [rng.integers(0, 60_000, shape).astype("uint16") for shape in SHAPES]


def dataset(patching, images, *, mode: str = "training") -> CareamicsDataset:
    """Return a dataset of theirs that only reads our stacks by our patching."""
    named = {"training": {"name": "random"}, "predicting": {"name": "tiled", "overlaps": (8, 8)}}[mode]
    config = DataConfig(
        mode=mode,
        data_type="array",
        axes="SCYX",
        patching={"patch_size": SIZE, **named},
        normalization={"name": "none"},
        augmentations=[],
    )
    extractor = TheirExtractor([ours.ArrayStack(image, "SCYX") for image in images])
    return CareamicsDataset(config, BasicPatchConstr(patching, extractor))


def training_patchings() -> dict[str, object]:
    random = ours.RandomPatching(SHAPES, SIZE, seed=4)
    weights = [np.ones((shape[0], -(-shape[2] // 16), -(-shape[3] // 16))) for shape in SHAPES]
    return {
        "random": random,
        "random, later epoch": random.at_epoch(3),
        "fixed random": ours.FixedRandomPatching(SHAPES, SIZE, seed=4),
        "stratified": ours.StratifiedPatching(SHAPES, SIZE, seed=4),
        "sequential": ours.SequentialPatching(SHAPES, SIZE),
        "weighted": ours.WeightedPatching(SHAPES, SIZE, weights, (16, 16), seed=4),
        "fixed": ours.FixedPatching(random[:5]),
    }


@pytest.mark.parametrize("name", training_patchings())
def test_dataset(name, images):
    """A dataset of theirs returns the patches of our patching."""
    patching = training_patchings()[name]
    extractor = ours.PatchExtractor([ours.ArrayStack(image, "SCYX") for image in images])
    regions = dataset(patching, images)
    assert len(regions) == len(patching)
    for index, spec in enumerate(patching):
        (region,) = regions[index]
        assert region.region_spec == spec
        assert np.array_equal(region.data, extractor.extract(spec))


@pytest.mark.parametrize(("name", "n_workers"), [*((name, 0) for name in training_patchings()), ("stratified", 2)])
def test_loader(name, n_workers, images):
    """Their loader returns every patch of our patching once, with any number of workers."""
    patching = training_patchings()[name]
    loader = DataLoader(
        dataset(patching, images),
        batch_size=3,
        num_workers=n_workers,
        sampler=GroupedIndexSampler.from_dataset(dataset(patching, images), np.random.default_rng(1)),
        multiprocessing_context="forkserver" if n_workers else None,
    )
    seen = Counter(
        (data_idx, sample_idx, *coords)
        for (batch,) in loader
        for data_idx, sample_idx, *coords in zip(
            batch.region_spec["data_idx"].tolist(),
            batch.region_spec["sample_idx"].tolist(),
            *(axis.tolist() for axis in batch.region_spec["coords"]),
            strict=True,
        )
    )
    assert seen == Counter((spec["data_idx"], spec["sample_idx"], *spec["coords"]) for spec in patching)


@pytest.mark.parametrize(("overlaps", "seams"), [((8, 8), "centered"), ((7, 5), "centered"), ((16, 16), "grid")])
def test_stitching(overlaps, seams, images):
    """Their stitching puts our tiles together to the image."""
    patching = ours.TiledPatching(SHAPES, SIZE, overlaps, seams=seams)
    loader = DataLoader(dataset(patching, images, mode="predicting"), batch_size=3)
    batches = [batch._replace(data=batch.data.numpy()) for (batch,) in loader]
    stitched, _ = convert_prediction(batches, tiled=True)
    for image, prediction in zip(images, stitched, strict=True):
        assert np.array_equal(prediction, image)


def test_lateral_context(images):
    """Their lateral context is the same for our stacks and theirs."""
    # Their stacks convert to float32, ours do not, and scikit-image's resize scales integers to [0, 1].
    images = [image.astype("float32") for image in images]
    patching = ours.TiledPatching(SHAPES, SIZE, (8, 8))
    stacks = [ours.ArrayStack(image, "SCYX") for image in images]
    mine = PredMsPatchConstr(patching, TheirExtractor(stacks), multiscale_count=2, padding_mode="reflect")
    other = PredMsPatchConstr(
        patching, TheirExtractor(load_arrays(images, "SCYX")), multiscale_count=2, padding_mode="reflect"
    )
    for index in range(0, len(patching), 3):
        assert np.array_equal(mine.construct_patch(index)[0], other.construct_patch(index)[0])


def test_background_filter(rng):
    """Their background filter removes the dark cells of our stratified patching."""
    image = rng.normal(10, 1, (1, 1, 256, 256)).astype("float32")
    image[..., 128:] += 100
    patching = ours.StratifiedPatching([image.shape], SIZE, seed=1)
    config = MeanStdPatchFilterConfig(mean_threshold=50, filtered_patch_prob=0)
    filter_background(config, patching, TheirExtractor(load_arrays([image], "SCYX")))
    assert 0 < len(patching) < 64
    assert min(spec["coords"][1] for epoch in range(5) for spec in patching.at_epoch(epoch)) >= 64


@pytest.mark.parametrize("name", ["RandomPatching", "FixedRandomPatching", "SequentialPatching", "StratifiedPatching"])
@pytest.mark.parametrize("shapes", [SHAPES, [(3, 2, 64, 96)], [(1, 1, 33, 65, 40), (2, 1, 32, 64, 32)]])
def test_n_patches(name, shapes):
    """Our strategies have as many patches for each stack as theirs."""
    size = SIZE if len(shapes[0]) == 4 else (16, 32, 32)
    one, other = (getattr(side, name)(shapes, size) for side in (ours, theirs))
    assert len(one) == other.n_patches
    for data_idx in range(len(shapes)):
        assert list(one.get_patch_indices(data_idx)) == list(other.get_patch_indices(data_idx))


@pytest.mark.parametrize("name", ["get_all_grid_coords", "get_included_grid_coords"])
def test_cell_keys(name):
    """Our stratified patching has the same keys and cells as theirs."""
    shapes = [(1, 1, 96, 64), (2, 1, 70, 50)]
    one, other = (getattr(side.StratifiedPatching(shapes, SIZE), name)() for side in (ours, theirs))
    assert {key: sorted(cells) for key, cells in one.items()} == {key: sorted(cells) for key, cells in other.items()}


def stratified(image_shapes) -> ours.StratifiedPatching:
    return ours.StratifiedPatching(image_shapes, SIZE, seed=3)


@pytest.mark.parametrize("shapes", [SHAPES, [(3, 1, 128, 160), (1, 1, 64, 64)], [(2, 1, 64, 96, 64)]])
def test_split(shapes):
    """Their split holds out cells of our stratified patching, and no training patch reaches into them."""
    size = SIZE if len(shapes[0]) == 4 else (32, 32, 32)
    patching = ours.StratifiedPatching(shapes, size, seed=3)
    cells = sum(map(len, patching.get_all_grid_coords().values()))
    training, validation = create_val_split(patching, 3, np.random.default_rng(1))
    held_out = [
        (spec["data_idx"], spec["sample_idx"], spec["coords"]) for spec in map(validation.get_patch_spec, range(3))
    ]
    assert training is patching
    assert sum(map(len, patching.get_included_grid_coords().values())) == cells - len(set(held_out))
    for epoch in range(5):
        for spec in patching.at_epoch(epoch):
            for data_idx, sample_idx, coords in held_out:
                if (data_idx, sample_idx) == (spec["data_idx"], spec["sample_idx"]):
                    assert (np.abs(np.subtract(coords, spec["coords"])) >= size).any(), "they share no voxel"


def test_split_too_large():
    """Their split refuses to hold out more cells than our patching has."""
    with pytest.raises(ValueError, match="too large"):
        create_val_split(stratified(SHAPES), 1000, np.random.default_rng(1))


@pytest.mark.parametrize("probability", [0, 0.1, 1])
@pytest.mark.parametrize(("image", "share"), [("bright", 1), ("dark", 0), ("half", None)])
def test_filters(image, share, probability, rng):
    """Their filters keep the expected share of patches of our stratified patching."""
    pixels = {"bright": np.full((2, 1, 128, 128), 200.0), "dark": np.zeros((2, 1, 128, 128))}
    pixels["half"] = np.concatenate([pixels["dark"][..., :64], pixels["bright"][..., 64:]], axis=3)
    image = pixels[image].astype("float32")
    whole, by_mask = stratified([image.shape]), stratified([image.shape])
    filter_background(
        MeanStdPatchFilterConfig(mean_threshold=50, filtered_patch_prob=probability),
        whole,
        TheirExtractor(load_arrays([image], "SCYX")),
    )
    filter_background_with_mask(
        MaskPatchFilterConfig(coverage=0.25, filtered_patch_prob=probability),
        by_mask,
        TheirExtractor(load_arrays([(image > 100).astype("float32")], "SCYX")),
    )
    for patching in (whole, by_mask):
        n_patches = sum(part.n_patches for of_stack in patching.image_patching for part in of_stack)
        assert n_patches == patching.n_patches == len(list(patching))
        if share is not None:
            least = probability + (1 - probability) * share
            assert n_patches == pytest.approx(32 * least, abs=1)
        elif probability == 0:
            assert min(spec["coords"][1] for epoch in range(5) for spec in patching.at_epoch(epoch)) >= 32


def replace_strategies(monkeypatch):
    """Replace their strategies by ours."""
    for module in (
        theirs,
        sys.modules["careamics.dataset.factory.val_split"],
        sys.modules["careamics.dataset.factory.filter_bg"],
    ):
        for name in ("FixedPatching", "StratifiedPatching"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(ours, name))


def test_split_fixed(monkeypatch):
    """Their split makes our fixed patching of the patches that are held out."""
    replace_strategies(monkeypatch)
    training, validation = create_val_split(stratified(SHAPES), 4, np.random.default_rng(2))
    assert type(validation) is ours.FixedPatching
    ours.validate_specs(list(validation), SHAPES)
    assert len(validation) == 4
    assert len(training)
