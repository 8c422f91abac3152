"""The order of an epoch: every patch once, on any number of ranks, resumed at any position; for both samplers."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

import patchloom as pl
from patchloom.torch import EpochSampler, LocalitySampler

PLAN = pl.RandomPatching([(2, 1, 256, 320), (1, 1, 200, 100)], (16, 16), n_patches=400, seed=2)
CHUNKS = [(1, 1, 32, 32), (1, 1, 50, 50)]


def epoch_sampler(**options) -> EpochSampler:
    return EpochSampler(PLAN, seed=9, **options)


def locality_sampler(**options) -> LocalitySampler:
    return LocalitySampler(PLAN, CHUNKS, seed=9, **options)


def in_plan_order(**options) -> EpochSampler:
    return EpochSampler(PLAN, shuffle=False, **options)


every_sampler = pytest.mark.parametrize("make", [epoch_sampler, locality_sampler, in_plan_order])


@every_sampler
def test_every_patch_once(make):
    """Each epoch has every patch once, and its keys contain the epoch."""
    sampler = make()

    epochs = [list(sampler) for _ in range(3)]

    for number, keys in enumerate(epochs):
        assert {key.epoch for key in keys} == {number}
        assert sorted(key.index for key in keys) == list(range(400))
    orders = {tuple(key.index for key in keys) for keys in epochs}
    assert len(orders) == (1 if make is in_plan_order else 3)


@every_sampler
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks(make, world_size):
    """Ranks divide the epoch of one process among them."""
    ranks = [make(rank=rank, world_size=world_size) for rank in range(world_size)]

    shares = [[key.index for key in sampler] for sampler in ranks]

    assert {len(share) for share in shares} == {len(ranks[0])} == {-(-400 // world_size)}
    assert set(itertools.chain(*shares)) == set(range(400))
    alone = [key.index for key in make()]
    if make is locality_sampler:
        assert list(itertools.chain(*shares))[:400] == alone
    else:
        assert list(itertools.chain(*zip(*shares, strict=True)))[:400] == alone


@every_sampler
def test_ranks_drop_last(make):
    """If the last patches are dropped, all ranks have the same number of patches and none comes twice."""
    shares = [[key.index for key in make(rank=rank, world_size=3, drop_last=True)] for rank in range(3)]

    assert [len(share) for share in shares] == [133] * 3
    assert len(set(itertools.chain(*shares))) == 399


@every_sampler
@pytest.mark.parametrize("stop", [0, 1, 150, 399, 400])
def test_resume(make, stop):
    """A sampler resumed in mid-epoch continues where it was."""
    undisturbed = make()
    expected = [*undisturbed, *undisturbed, *undisturbed]
    killed = make()
    list(killed)
    keys = list(itertools.islice(iter(killed), stop))

    restarted = make()
    restarted.load_state_dict(killed.state_dict())

    assert [*expected[:400], *keys, *restarted, *restarted][: len(expected)] == expected


def test_resume_twice():
    """A sampler can be resumed a second time."""
    expected, first, second, third = list(epoch_sampler()), epoch_sampler(), epoch_sampler(), epoch_sampler()
    used = list(itertools.islice(iter(first), 100))
    second.load_state_dict(first.state_dict())
    used += itertools.islice(iter(second), 50)

    third.load_state_dict(second.state_dict())

    assert [*used, *third] == expected


def test_used():
    """The state can contain the number of patches used instead of keys requested."""
    sampler, other = epoch_sampler(), epoch_sampler()
    keys = list(itertools.islice(iter(sampler), 50))

    other.load_state_dict(sampler.state_dict(used=20))

    assert next(iter(other)) == keys[20]


def test_key_runs():
    """Runs of keys are the keys of single iteration, in whole batches."""
    singly, in_runs = epoch_sampler(), epoch_sampler()

    runs = list(in_runs.key_runs(60, drop_last=False, max_keys=130))

    assert [len(run.indices) for run in runs] == [120, 120, 120, 40]
    assert np.concatenate([run.indices for run in runs]).tolist() == [key.index for key in singly]
    assert {run.epoch for run in runs} == {0}
    assert [len(run.indices) for run in in_runs.key_runs(60, drop_last=True, max_keys=130)] == [120, 120, 120]
    assert [len(run.indices) for run in in_runs.key_runs(140, drop_last=True, max_keys=130)] == [140, 140]


def test_set_epoch():
    """An abandoned epoch is followed by the next one, and any epoch can be chosen."""
    sampler = epoch_sampler()
    next(iter(sampler))

    assert next(iter(sampler)).epoch == 1
    sampler.set_epoch(7)
    assert next(iter(sampler)).epoch == 7
    assert next(iter(sampler)).epoch == 8


def test_set_resumed_epoch():
    """Choosing the epoch that is resumed keeps its position."""
    sampler = epoch_sampler()
    sampler.load_state_dict({**sampler.state_dict(), "epoch": 4, "position": 100})

    sampler.set_epoch(4)

    assert len(list(sampler)) == 300


OTHER_PLAN = pl.RandomPatching(PLAN.data_shapes, PLAN.patch_size, n_patches=len(PLAN), seed=99)
VARIANTS = {
    "epoch": lambda: EpochSampler(400, seed=5),
    "another seed": lambda: EpochSampler(400, seed=6),
    "longer": lambda: EpochSampler(401, seed=5),
    "unshuffled": lambda: EpochSampler(400, seed=5, shuffle=False),
    "of two ranks": lambda: EpochSampler(400, seed=5, rank=1, world_size=2),
    "of three ranks": lambda: EpochSampler(400, seed=5, rank=0, world_size=3),
    "of three ranks, dropped": lambda: EpochSampler(400, seed=5, rank=0, world_size=3, drop_last=True),
    "locality": lambda: LocalitySampler(PLAN, CHUNKS, window=4, seed=5),
    "wider": lambda: LocalitySampler(PLAN, CHUNKS, window=9, seed=5),
    "larger blocks": lambda: LocalitySampler(PLAN, CHUNKS, window=4, block=3, seed=5),
    "other chunks": lambda: LocalitySampler(PLAN, [(1, 1, 48, 64)] * len(CHUNKS), window=4, seed=5),
    "another plan": lambda: LocalitySampler(OTHER_PLAN, CHUNKS, window=4, seed=5),
}


class Reversed(EpochSampler):
    """A sampler with an order of its own."""

    def _order(self, epoch):
        return lambda places: self.n_patches - 1 - places


@pytest.mark.parametrize("one", VARIANTS)
def test_foreign_state(one):
    """The state of another sampler is refused and changes nothing."""
    sampler = VARIANTS[one]()
    keys = list(itertools.islice(iter(sampler), 100))
    state = json.loads(json.dumps(sampler.state_dict()))

    for name, make in {**VARIANTS, "reversed": lambda: Reversed(400, seed=5)}.items():
        other = make()
        if name == one:
            other.load_state_dict(state)
            assert sorted([*keys, *other]) == sorted(VARIANTS[one]()), "all patches once"
        else:
            with pytest.raises(pl.GeometryError, match="the state"):
                other.load_state_dict(state)
            assert other.state_dict() == make().state_dict()


def test_state_of_ranks():
    """A state of one rank resumes all ranks."""
    first = EpochSampler(400, seed=5, rank=0, world_size=2)
    list(itertools.islice(iter(first), 60))
    second = EpochSampler(400, seed=5, rank=1, world_size=2)
    second.load_state_dict(first.state_dict())
    assert list(second) == list(EpochSampler(400, seed=5, rank=1, world_size=2))[60:]


@pytest.mark.parametrize("state", [None, {}, [], "state", 3, {"epoch": 0, "position": 3}])
def test_not_a_state(state):
    """An object that is not a state is refused."""
    with pytest.raises(pl.GeometryError, match="the state lacks"):
        epoch_sampler().load_state_dict(state)


@pytest.mark.parametrize(
    "field", ["epoch", "position", "seed", "n_patches", "world_size", "shuffle", "drop_last", "kind"]
)
@pytest.mark.parametrize("value", [-1, 1.5, "0", None, 10**12])
def test_damaged_state(field, value):
    """A damaged state is refused and changes nothing."""
    sampler = epoch_sampler()
    with pytest.raises(pl.GeometryError):
        sampler.load_state_dict({**sampler.state_dict(), field: value})
    assert sampler.state_dict() == epoch_sampler().state_dict()


def test_wrong_arguments():
    """Wrong arguments are refused."""
    for patches, options in ((0, {}), (2, {"world_size": 3, "rank": 0, "drop_last": True})):
        with pytest.raises(pl.GeometryError, match="would be empty"):
            EpochSampler(patches, **options)
    for rank, world_size in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(pl.GeometryError, match="rank"):
            EpochSampler(5, rank=rank, world_size=world_size)
    for wrong in ({"window": 0}, {"block": 0}, {"chunk_shapes": []}, {"chunk_shapes": [(1, 1, 0, 5)]}):
        with pytest.raises(pl.GeometryError):
            LocalitySampler(PLAN, **{"chunk_shapes": CHUNKS, **wrong})
    with pytest.raises(pl.GeometryError, match="chunk_shapes is for 1 image stacks"):
        list(LocalitySampler(PLAN, CHUNKS[:1]))
