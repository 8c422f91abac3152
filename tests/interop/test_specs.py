"""One vocabulary: each side uses the specifications of the other."""

from __future__ import annotations

import inspect
import itertools
from typing import get_type_hints

import careamics.dataset.patching as theirs
import numpy as np
import pytest
from careamics.dataset.image_stack_loader import load_arrays
from careamics.dataset.patch_constructor import MultiChannelTargetMsPatchConstr
from careamics.dataset.patch_extractor import PatchExtractor as TheirExtractor

import patchloom as ours

SHAPES = [(2, 3, 70, 50), (1, 3, 40, 90)]
SPEC_TYPES = ["PatchSpecs", "TileSpecs", "UncorrelatedPatchSpecs"]
OPTIONAL_FIELDS = [
    "crop_coords", "crop_size", "stitch_coords", "total_tiles",
    "principal_channel", "all_data_idx", "all_sample_idx", "all_coords",
]  # fmt: skip


@pytest.fixture
def images(rng) -> list[np.ndarray]:
    return [rng.integers(0, 60_000, shape).astype("uint16") for shape in SHAPES]


@pytest.mark.parametrize("name", SPEC_TYPES)
def test_fields(name):
    """Our types of specifications have the same fields as theirs."""
    assert set(get_type_hints(getattr(ours, name))) == set(get_type_hints(getattr(theirs, name)))


def test_guards():
    """Both sides distinguish the kinds of specifications in the same way."""
    for fields in itertools.product([False, True], repeat=len(OPTIONAL_FIELDS)):
        spec = dict.fromkeys(["data_idx", "sample_idx", "coords", "patch_size"])
        spec |= dict.fromkeys(itertools.compress(OPTIONAL_FIELDS, fields))
        assert ours.is_tile_specs(spec) is theirs.is_tile_specs(spec)
        assert ours.is_uncorrelated_specs(spec) is theirs.is_uncorrelated_specs(spec)


def our_patchings() -> dict[str, object]:
    size = (32, 24)
    return {
        "random": ours.RandomPatching(SHAPES, size, seed=1),
        "fixed random": ours.FixedRandomPatching(SHAPES, size, seed=1),
        "stratified": ours.StratifiedPatching(SHAPES, size, seed=1),
        "sequential": ours.SequentialPatching(SHAPES, size, (8, 6)),
        "tiled": ours.TiledPatching(SHAPES, size, (9, 7)),
        "tiled on the grid": ours.TiledPatching(SHAPES, (64, 64), (16, 16), seams="grid"),
        "over the border": ours.RandomPatching(SHAPES, size, seed=1, coverage="uniform"),
        "whole samples": ours.WholeSamplePatching(SHAPES),
    }


@pytest.mark.parametrize("name", our_patchings())
def test_our_specs(name, images):
    """Their extractor reads our specifications as ours does."""
    extractor = ours.PatchExtractor([ours.ArrayStack(image, "SCYX") for image in images], padding="constant")
    other = TheirExtractor(load_arrays(images, "SCYX"))
    for spec in our_patchings()[name]:
        place = {field: spec[field] for field in ("data_idx", "sample_idx", "coords", "patch_size")}
        assert np.array_equal(extractor.extract(spec), other.extract_patch(**place))


@pytest.mark.parametrize(
    "patching",
    [
        theirs.RandomPatching(SHAPES, (32, 24), seed=1),
        theirs.StratifiedPatching(SHAPES, (32, 24), seed=1),
        theirs.SequentialPatching(SHAPES, (32, 24), (8, 6)),
        theirs.TiledPatching(SHAPES, (32, 24), (8, 6)),
        theirs.WholeSamplePatching(SHAPES),
    ],
    ids=lambda patching: type(patching).__name__,
)
def test_their_specs(patching, images):
    """Our extractor reads their specifications as theirs does."""
    extractor = ours.PatchExtractor([ours.ArrayStack(image, "SCYX") for image in images])
    other = TheirExtractor(load_arrays(images, "SCYX"))
    specs = [patching.get_patch_spec(index) for index in range(patching.n_patches)]
    # Theirs may hold NumPy's integers; a table makes them plain.
    plain = ours.SpecTable.from_specs(specs)
    ours.validate_specs(plain, SHAPES)
    expected = [
        other.extract_patch(*(spec[field] for field in ("data_idx", "sample_idx", "coords", "patch_size")))
        for spec in specs
    ]
    for spec, patch in zip(specs, expected, strict=True):
        assert np.array_equal(extractor.extract(spec), patch)
    if not isinstance(patching, theirs.WholeSamplePatching):
        assert np.array_equal(extractor.extract_batch(specs), np.stack(expected))
    assert [as_lists(spec) for spec in plain] == [as_lists(spec) for spec in specs]


def as_lists(spec) -> dict[str, object]:
    return {field: np.asarray(value).tolist() for field, value in spec.items()}


@pytest.mark.parametrize("overlaps", [(8, 6), (0, 0), (16, 12)])
def test_their_tiles(overlaps, images):
    """Our stitcher puts their tiles together to the image."""
    patching = theirs.TiledPatching(SHAPES, (32, 24), overlaps)
    extractor = ours.PatchExtractor([ours.ArrayStack(image, "SCYX") for image in images])
    for data_idx, image in enumerate(images):
        stitcher = ours.CropStitcher(image.shape, image.dtype)
        for index in patching.get_patch_indices(data_idx):
            spec = patching.get_patch_spec(index)
            stitcher.add(extractor.extract(spec), spec)
        assert np.array_equal(stitcher.finish(), image)


def test_their_uncorrelated_specs(images):
    """Our extractor reads their uncorrelated specifications as theirs does."""
    maker = MultiChannelTargetMsPatchConstr(
        theirs.RandomPatching(SHAPES, (32, 24), seed=1),
        TheirExtractor(load_arrays(images, "SCYX")),
        multiscale_count=1,
        padding_mode="reflect",
        alpha_ranges=None,
        uncorrelated_channel_prob=1.0,
        rng=np.random.default_rng(3),
    )
    extractor = ours.PatchExtractor([ours.ArrayStack(image, "SCYX") for image in images])
    for index in range(maker.n_patches):
        _, target, spec = maker.construct_patch(index)
        assert ours.is_uncorrelated_specs(spec)
        assert np.array_equal(extractor.extract(spec), target)


def test_our_uncorrelated_specs():
    """Our uncorrelated specifications have their fields, and pass their guard."""
    patching = ours.UncorrelatedPatching(ours.RandomPatching(SHAPES, (32, 24), seed=1), n_channels=3, probability=0.5)
    for spec in patching:
        assert theirs.is_uncorrelated_specs(spec)
        assert set(spec) == set(get_type_hints(theirs.UncorrelatedPatchSpecs))


@pytest.mark.parametrize(
    "name",
    [
        "FixedPatching",
        "FixedRandomPatching",
        "RandomPatching",
        "SequentialPatching",
        "StratifiedPatching",
        "TiledPatching",
        "WholeSamplePatching",
    ],
)
def test_strategies(name):
    """Our strategies take their arguments first, and have all of their members."""
    mine, other = getattr(ours, name), getattr(theirs, name)
    expected = list(inspect.signature(other).parameters.values())
    taken = list(inspect.signature(mine).parameters.values())[: len(expected)]
    assert [(one.name, one.kind) for one in taken] == [(one.name, one.kind) for one in expected]
    members = {member for member in dir(other) if not member.startswith("_")}
    assert members <= set(dir(mine))
