"""Plans of ours drive CAREamics' dataset, its loaders, its filters and its stitching."""

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


def dataset(plan, images, *, mode: str = "training") -> CareamicsDataset:
    """A dataset of theirs that does nothing but read our stacks by our plan."""
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
    return CareamicsDataset(config, BasicPatchConstr(plan, extractor))


def plans_for_training() -> dict[str, object]:
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


@pytest.mark.parametrize("name", plans_for_training())
def test_a_plan_drives_a_dataset(name, images):
    plan = plans_for_training()[name]
    extractor = ours.PatchExtractor([ours.ArrayStack(image, "SCYX") for image in images])
    regions = dataset(plan, images)
    assert len(regions) == len(plan)
    for index, spec in enumerate(plan):
        (region,) = regions[index]
        assert region.region_spec == spec
        assert np.array_equal(region.data, extractor.extract(spec))


@pytest.mark.parametrize(("name", "n_workers"), [*((name, 0) for name in plans_for_training()), ("stratified", 2)])
def test_a_loader_gives_every_patch_once_whatever_its_workers(name, n_workers, images):
    plan = plans_for_training()[name]
    loader = DataLoader(
        dataset(plan, images),
        batch_size=3,
        num_workers=n_workers,
        sampler=GroupedIndexSampler.from_dataset(dataset(plan, images), np.random.default_rng(1)),
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
    assert seen == Counter((spec["data_idx"], spec["sample_idx"], *spec["coords"]) for spec in plan)


@pytest.mark.parametrize(("overlaps", "seams"), [((8, 8), "centered"), ((7, 5), "centered"), ((16, 16), "grid")])
def test_they_stitch_our_tiles(overlaps, seams, images):
    plan = ours.TiledPatching(SHAPES, SIZE, overlaps, seams=seams)
    loader = DataLoader(dataset(plan, images, mode="predicting"), batch_size=3)
    batches = [batch._replace(data=batch.data.numpy()) for (batch,) in loader]
    stitched, _ = convert_prediction(batches, tiled=True)
    for image, prediction in zip(images, stitched, strict=True):
        assert np.array_equal(prediction, image)


def test_our_tiles_drive_their_lateral_context(images):
    # Their stacks turn into float32 what ours leave as it is, and scikit-image's resize scales integers to [0, 1].
    images = [image.astype("float32") for image in images]
    plan = ours.TiledPatching(SHAPES, SIZE, (8, 8))
    stacks = [ours.ArrayStack(image, "SCYX") for image in images]
    mine = PredMsPatchConstr(plan, TheirExtractor(stacks), multiscale_count=2, padding_mode="reflect")
    other = PredMsPatchConstr(
        plan, TheirExtractor(load_arrays(images, "SCYX")), multiscale_count=2, padding_mode="reflect"
    )
    for index in range(0, len(plan), 3):
        assert np.array_equal(mine.construct_patch(index)[0], other.construct_patch(index)[0])


def test_their_background_filter_works_on_our_stratified_plan(rng):
    image = rng.normal(10, 1, (1, 1, 256, 256)).astype("float32")
    image[..., 128:] += 100
    plan = ours.StratifiedPatching([image.shape], SIZE, seed=1)
    config = MeanStdPatchFilterConfig(mean_threshold=50, filtered_patch_prob=0)
    filter_background(config, plan, TheirExtractor(load_arrays([image], "SCYX")))
    assert 0 < len(plan) < 64
    assert min(spec["coords"][1] for epoch in range(5) for spec in plan.at_epoch(epoch)) >= 64


@pytest.mark.parametrize("name", ["RandomPatching", "FixedRandomPatching", "SequentialPatching", "StratifiedPatching"])
@pytest.mark.parametrize("shapes", [SHAPES, [(3, 2, 64, 96)], [(1, 1, 33, 65, 40), (2, 1, 32, 64, 32)]])
def test_plans_have_as_many_patches_as_theirs(name, shapes):
    size = SIZE if len(shapes[0]) == 4 else (16, 32, 32)
    one, other = (getattr(side, name)(shapes, size) for side in (ours, theirs))
    assert len(one) == other.n_patches
    for data_idx in range(len(shapes)):
        assert list(one.get_patch_indices(data_idx)) == list(other.get_patch_indices(data_idx))


@pytest.mark.parametrize("name", ["get_all_grid_coords", "get_included_grid_coords"])
def test_stratified_plans_name_their_cells_alike(name):
    shapes = [(1, 1, 96, 64), (2, 1, 70, 50)]
    one, other = (getattr(side.StratifiedPatching(shapes, SIZE), name)() for side in (ours, theirs))
    assert {key: sorted(cells) for key, cells in one.items()} == {key: sorted(cells) for key, cells in other.items()}


def plan_for(image_shapes) -> ours.StratifiedPatching:
    return ours.StratifiedPatching(image_shapes, SIZE, seed=3)


@pytest.mark.parametrize("shapes", [SHAPES, [(3, 1, 128, 160), (1, 1, 64, 64)], [(2, 1, 64, 96, 64)]])
def test_their_split_sets_cells_of_our_plan_aside(shapes):
    size = SIZE if len(shapes[0]) == 4 else (32, 32, 32)
    plan = ours.StratifiedPatching(shapes, size, seed=3)
    cells = sum(map(len, plan.get_all_grid_coords().values()))
    training, validation = create_val_split(plan, 3, np.random.default_rng(1))
    held_out = [
        (spec["data_idx"], spec["sample_idx"], spec["coords"]) for spec in map(validation.get_patch_spec, range(3))
    ]
    assert training is plan
    assert sum(map(len, plan.get_included_grid_coords().values())) == cells - len(set(held_out))
    for epoch in range(5):
        for spec in plan.at_epoch(epoch):
            for data_idx, sample_idx, coords in held_out:
                if (data_idx, sample_idx) == (spec["data_idx"], spec["sample_idx"]):
                    assert (np.abs(np.subtract(coords, spec["coords"])) >= size).any(), "they share no voxel"


def test_their_split_refuses_what_our_plan_does_not_have():
    with pytest.raises(ValueError, match="too large"):
        create_val_split(plan_for(SHAPES), 1000, np.random.default_rng(1))


@pytest.mark.parametrize("probability", [0, 0.1, 1])
@pytest.mark.parametrize(("image", "share"), [("bright", 1), ("dark", 0), ("half", None)])
def test_their_filters_thin_our_plan_out(image, share, probability, rng):
    pixels = {"bright": np.full((2, 1, 128, 128), 200.0), "dark": np.zeros((2, 1, 128, 128))}
    pixels["half"] = np.concatenate([pixels["dark"][..., :64], pixels["bright"][..., 64:]], axis=3)
    image = pixels[image].astype("float32")
    whole, by_mask = plan_for([image.shape]), plan_for([image.shape])
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
    for plan in (whole, by_mask):
        n_patches = sum(part.n_patches for of_stack in plan.image_patching for part in of_stack)
        assert n_patches == plan.n_patches == len(list(plan))
        if share is not None:
            least = probability + (1 - probability) * share
            assert n_patches == pytest.approx(32 * least, abs=1)
        elif probability == 0:
            assert min(spec["coords"][1] for epoch in range(5) for spec in plan.at_epoch(epoch)) >= 32


def strategies_in_place(monkeypatch):
    """Put our strategies where theirs are looked up."""
    for module in (
        theirs,
        sys.modules["careamics.dataset.factory.val_split"],
        sys.modules["careamics.dataset.factory.filter_bg"],
    ):
        for name in ("FixedPatching", "StratifiedPatching"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(ours, name))


def test_their_split_makes_our_fixed_plan_of_what_is_held_out(monkeypatch):
    strategies_in_place(monkeypatch)
    training, validation = create_val_split(plan_for(SHAPES), 4, np.random.default_rng(2))
    assert type(validation) is ours.FixedPatching
    ours.validate_specs(list(validation), SHAPES)
    assert len(validation) == 4
    assert len(training)
