"""Certificates: what they find is what NumPy finds on the whole image, and they read every kind of output."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr

import patchloom as pl
from patchloom.errors import ArgumentError


class Blur:
    """A mean over 2 × reach + 1 voxels along Y and X, with zeros outside of a tile, as a convolution with zero padding."""

    def __init__(self, reach: int, **declared) -> None:
        self.reach = reach
        self.description = pl.ModelDescription(identity=f"blur {reach}", **declared)

    def __call__(self, batch):
        return blurred(batch.astype(np.float64), self.reach).astype(np.float32)


def blurred(batch, reach):
    sizes = batch.shape[-2:]
    padded = np.pad(batch, [(0, 0)] * (batch.ndim - 2) + [(reach, reach)] * 2)
    rows = sum(padded[..., at : at + sizes[0], :] for at in range(2 * reach + 1))
    return sum(rows[..., at : at + sizes[1]] for at in range(2 * reach + 1)) / (2 * reach + 1) ** 2


def certified(model, image, *, output=None, **arguments):
    """Predict and certify; return the result and the certificate."""
    found = []
    result = pl.predict(model, image, output, certify=found.append, progress=False, **arguments)
    return result, found[0]


IMAGE = np.random.default_rng(3).random((150, 170), np.float32)
TILES = {"axes": "YX", "patch_size": 40, "overlaps": 12}


@pytest.mark.parametrize("blend", ["none", "hann"])
def test_too_small_overlap_is_found(blend):
    """The largest difference to the whole image, which NumPy computes, is at least what the certificate finds, and near it."""
    model = Blur(10, size_step=(4, 4), context=((10, 10), (10, 10)))
    result, found = certified(model, IMAGE, blend=blend, **TILES)
    true = np.abs(result.astype(np.float64) - blurred(IMAGE.astype(np.float64), 10))
    difference = found.outputs[0]
    assert found.is_exact
    assert not found.passed
    assert 0.5 * true.max() <= difference.largest <= true.max() + 1e-6
    at = difference.worst["coords"]
    assert true[at] == pytest.approx(difference.largest, abs=1e-6)


def test_sufficient_overlap_passes():
    """With overlaps of twice the reach, only rounding differs, at borders of the image, too."""
    _, found = certified(Blur(6, size_step=(4, 4), context=((6, 6), (6, 6))), IMAGE, **TILES)
    assert found.is_exact
    assert found.passed
    assert found.outputs[0].largest < 1e-6


def test_whole_image_is_one_region():
    """A tile that covers the whole image, as the model accepts its size, is compared once, without cropping."""
    _, found = certified(Blur(6, size_step=(2, 2), min_size=(2, 2)), IMAGE, **TILES)
    assert [(region.start, region.stop, region.is_exact) for region in found.regions] == [((0, 0), (150, 170), True)]


def test_regions_are_compared_with_their_middle():
    """Of a tile that does not cover the image, a quarter on each side is not compared if the reach is not known."""
    image = np.random.default_rng(0).random((900, 800), np.float32)
    model = Blur(3)
    _, found = certified(model, image, **TILES)
    assert len(found.regions) == 8
    assert not found.is_exact
    assert found.passed
    for region in found.regions:
        for first, size, start, stop, end in zip(
            region.tile_start, region.tile_size, region.start, region.stop, image.shape, strict=True
        ):
            assert start == (0 if first == 0 else first + size // 4)
            assert stop == (end if first + size == end else first + size - size // 4)


def test_known_voxels_are_counted():
    """A model that is wrong in one column of voxels is found there, and the share is that which NumPy counts."""

    class Wrong(Blur):
        def __call__(self, batch):
            result = batch.copy()
            if batch.shape[-1] == 40:
                result[..., 20] += 1
            return result

    image = np.zeros((80, 80), np.float32)
    result, found = certified(Wrong(0, size_step=(8, 8)), image, axes="YX", patch_size=40, overlaps=0)
    assert found.outputs[0].n_voxels == 6400
    assert found.outputs[0].n_over == (result != 0).sum() == 160
    assert found.outputs[0].percentiles[0] == 0
    assert found.outputs[0].largest == 1
    assert found.outputs[0].worst["coords"][1] in (20, 60)


def test_labels_are_compared_by_share():
    """Of labels, the certificate counts voxels that differ, after postprocessing."""

    def model(batch):
        value = batch if batch.shape[-1] > 16 else np.where(np.arange(16) == 0, 1 - batch, batch)
        return np.concatenate([value, 1 - value], axis=1)

    image = (np.random.default_rng(1).random((64, 64)) > 0.5).astype(np.float32)
    result, found = certified(model, image, axes="YX", patch_size=16, overlaps=0, postprocess="argmax")
    difference = found.outputs[0]
    assert difference.is_labels
    assert not difference.passed
    assert difference.largest == 1
    assert result.dtype.kind in "iu"
    assert 0 < difference.share_over < 0.2


def test_scales_margins_and_several_outputs():
    """Outputs of other sizes and with margins are compared in their own voxels."""

    class Several:
        description = pl.ModelDescription(size_step=(4, 4), identity="several")

        def __call__(self, batch):
            core = batch[..., 4:-4, 4:-4]
            small = core.reshape(*core.shape[:2], core.shape[2] // 2, 2, core.shape[3] // 2, 2).mean((3, 5))
            return {"large": core.repeat(2, -1).repeat(2, -2), "small": small, "same": core + 1}

    result, found = certified(Several(), IMAGE[:141, :167], **TILES)
    assert [entry.output for entry in found.outputs] == list(result)
    assert found.passed
    assert all(entry.n_voxels > 500 and entry.largest < 1e-6 for entry in found.outputs)


@pytest.mark.parametrize("ending", [".ome.zarr", ".ome.tif", ".npy"])
def test_files_are_read(tmp_path, ending):
    """What is stored in a file is compared, with the normalization of the run and a series of slices for a 2D model."""
    stack = np.random.default_rng(0).integers(0, 1000, (2, 3, 90, 100), np.uint16)
    np.save(tmp_path / "stack.npy", stack)
    path = pl.predict(
        Blur(4, size_step=(4, 4), n_dims=2),
        tmp_path / "stack.npy",
        tmp_path / f"out{ending}",
        axes="TZYX",
        patch_size=40,
        overlaps=16,
        normalize=pl.MeanStd(),
        certify=True,
        progress=False,
    )
    stored = json.loads((tmp_path / f"out{ending}.certificate.json").read_text())
    found = pl.Certificate.from_dict(stored["certificate"])
    assert found.passed
    assert found.regions
    assert stored["certificate"]["passed"]
    again = pl.certify(path, Blur(4, size_step=(4, 4), n_dims=2))
    assert again.regions == found.regions
    assert again.outputs == found.outputs


def test_damaged_output_is_found(tmp_path):
    """An output in which voxels are changed after the run is not certified, and the worst voxel is named in the slice of the image."""
    stack = np.random.default_rng(0).random((3, 64, 64), np.float32)
    np.save(tmp_path / "stack.npy", stack)
    model = Blur(2, size_step=(8, 8), n_dims=2)
    path = pl.predict(
        model,
        tmp_path / "stack.npy",
        tmp_path / "out.npy",
        axes="ZYX",
        patch_size=32,
        overlaps=8,
        certify=True,
        progress=False,
    )
    changed = np.load(path)
    changed[:, 31, 33] += 7
    np.save(path, changed)
    found = pl.certify(path, model, n_regions=3)
    assert found.outputs[0].worst["coords"][1:] == (31, 33)
    assert found.outputs[0].largest == pytest.approx(7, abs=1e-5)
    assert found.outputs[0].worst["patch_size"] == (1, 1, 1)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_attributes_of_ome_zarr(tmp_path, version):
    """An OME-Zarr has the certificate and the plan in its attributes, and stays valid."""
    np.save(tmp_path / "image.npy", IMAGE)
    path = pl.predict(
        Blur(2),
        tmp_path / "image.npy",
        pl.OmeZarr(tmp_path / "a.ome.zarr", version=version),
        certify=True,
        progress=False,
        **TILES,
    )
    own = dict(zarr.open_group(path, mode="r").attrs)["patchloom"]
    assert pl.Certificate.from_dict(own["certificate"]).passed
    assert own["certificate"]["seed"] == 0
    (tmp_path / "a.ome.zarr.certificate.json").unlink()
    assert pl.certify(path, Blur(2)).passed
    assert (tmp_path / "a.ome.zarr.certificate.json").exists()


def test_series_and_regions_of_images():
    """Every image of a series is certified; of an image of which a box is predicted, the box is compared."""
    images = [IMAGE, IMAGE[:100, :90]]
    _, found = certified(Blur(3, size_step=(4, 4)), images, **TILES)
    assert {region.data_idx for region in found.regions} == {0, 1}
    assert found.passed
    box = {"y": (33, 95), "x": (20, 131)}
    result, found = certified(Blur(10, size_step=(4, 4)), IMAGE, region=box, **TILES)
    assert result.shape == (62, 111)
    assert not found.passed
    for region in found.regions:
        assert region.start >= (33, 20)
        assert region.stop <= (95, 131)


def test_skipped_tiles_are_not_compared():
    """Regions with tiles on which the model is not run are left out, and counted."""
    image = IMAGE.copy()
    image[:, :80] = 0
    _, found = certified(Blur(2), image, skip=pl.SkipDark(0.01), **TILES)
    assert found.n_skipped_regions > 0
    assert found.passed


def test_model_that_accepts_one_size():
    """A model that accepts one size is compared in tiles that lie around the seams."""

    def one_size(batch):
        assert batch.shape[-2:] == (40, 40)
        return blurred(batch, 1)

    _, found = certified(one_size, IMAGE, **TILES)
    assert {region.tile_size for region in found.regions} == {(40, 40)}
    assert found.passed


def test_halved_pixels():
    """Tiles that are resampled for the network are certified, at its pixel size."""
    _, found = certified(
        Blur(1, size_step=(4, 4)), IMAGE, voxel_size=0.5, pixel_size=1.0, axes="YX", patch_size=40, overlaps=16
    )
    assert found.regions
    assert found.passed


def test_regions_depend_on_seed_and_plan_only():
    """The same seed and plan give the same regions; another seed gives others."""
    planned = pl.plan(IMAGE.repeat(4, 0).repeat(4, 1), axes="YX", patch_size=40, overlaps=8, memory_limit=10**9)
    image = IMAGE.repeat(4, 0).repeat(4, 1)
    result = planned.run(Blur(1), sources=image, progress=False)
    first, second, other = (pl.certify(result, Blur(1), image, plan=planned, seed=seed) for seed in (0, 0, 1))
    assert first.regions == second.regions != other.regions


def test_tolerance_decides():
    """A tolerance above the largest difference lets an output pass."""
    _, found = certified(Blur(10), IMAGE, tolerance=1.0, **TILES)
    assert found.passed
    assert found.outputs[0].tolerance == 1.0


def test_one_tile_has_nothing_to_compare():
    """An image that one tile covers has no seams."""
    _, found = certified(Blur(1), IMAGE[:40, :40], **TILES)
    assert not found.regions
    assert found.passed
    assert "nothing was compared" in str(found)


def test_draws_are_refused(tmp_path):
    """Random draws cannot be certified; nothing is written."""
    with pytest.raises(ArgumentError, match="n_draws is 3"):
        pl.predict(Blur(1), IMAGE, tmp_path / "a.ome.zarr", n_draws=3, certify=True, progress=False, **TILES)
    assert list(tmp_path.iterdir()) == []


def test_replaced_output_has_no_old_certificate(tmp_path):
    """The certificate of an output goes when the output is replaced by a run without one."""
    for certify in (True, False):
        pl.predict(Blur(1), IMAGE, tmp_path / "a.npy", certify=certify, overwrite=True, progress=False, **TILES)
        assert (tmp_path / "a.npy.certificate.json").exists() is certify


def test_table(capsys):
    """The table has a row for each output, and progress shows it."""
    pl.predict(Blur(10), IMAGE, certify=True, **TILES)
    shown = capsys.readouterr().err
    assert "largest difference" in shown
    assert "differs" in shown
    assert "larger overlaps" in shown


def test_probed_network_is_certified_exactly():
    """The reach that probing measures is used for the regions: of a network with a stride, they are exact."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.MaxPool2d(4),
        torch.nn.Conv2d(4, 4, 3, padding=1),
        torch.nn.Upsample(scale_factor=4),
        torch.nn.Conv2d(4, 1, 3, padding=1),
    )
    _, found = certified(network, np.random.default_rng(0).random((1024, 1100), np.float32), axes="YX")
    assert found.regions
    assert found.is_exact
    assert found.passed
    assert found.outputs[0].largest < 1e-5
