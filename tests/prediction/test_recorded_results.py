"""Predictions give the same bytes as when they were recorded, on every machine, with numba and without.

`recorded_results.json` holds one digest a case. Refactoring never changes it. Record anew only for a new case, or where a
change of results is intended and has a fragment in `changes/`; then the diff names the cases that changed:
`python tests/prediction/test_recorded_results.py`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import patchloom as pl

RECORDED = Path(__file__).with_name("recorded_results.json")


def image(*shape: int, dtype: str = "uint8", n_values: int = 256) -> np.ndarray:
    """Return integers without a pattern that do not depend on NumPy's generators."""
    index = np.arange(np.prod(shape), dtype=np.uint64)
    return ((index * np.uint64(2654435761) >> np.uint64(13)) % np.uint64(n_values)).astype(dtype).reshape(shape)


def mark(batch: np.ndarray) -> np.ndarray:
    """Return numbers that depend on each voxel, on its neighbors and on its place in the tile."""
    marked = batch
    for axis in range(2, batch.ndim):
        place = np.arange(batch.shape[axis], dtype=batch.dtype).reshape(-1, *(1,) * (batch.ndim - 1 - axis))
        marked = 3 * marked + 5 * np.roll(marked, 1, axis) + 7 * place
    return marked


def classes(batch: np.ndarray) -> np.ndarray:
    return np.concatenate([mark(batch), 255 - batch, batch // 2 + 100], axis=1)


def enlarge(batch: np.ndarray) -> np.ndarray:
    return mark(batch).repeat(2, -1).repeat(2, -2)


def halve(batch: np.ndarray) -> np.ndarray:
    marked = mark(batch)
    return marked[..., ::2, ::2] + 3 * marked[..., 1::2, 1::2]


def without_margin(batch: np.ndarray) -> np.ndarray:
    return mark(batch)[..., 3:-3, 2:-2]


def outputs(batch: np.ndarray) -> dict[str, np.ndarray]:
    return {"marked": mark(batch), "bright": batch > 100}


def project(batch: np.ndarray) -> np.ndarray:
    return mark(batch).sum(axis=1, keepdims=True, dtype=np.int32)


class Describing:
    """A model with a fixed tile, a stride and a batch size."""

    description = pl.ModelDescription(patch_size=(16, 12), overlaps=(4, 3), origin_multiple=(4, 3), batch_size=4)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        assert batch.shape == (4, 1, 16, 12)
        return mark(batch)


def case(model: Any, sources: Any, axes: str, patch_size: Any, overlaps: Any = None, **options: Any) -> dict[str, Any]:
    """Return the arguments of `predict`, and of `run` and `write`."""
    return {"model": model, "sources": sources, "axes": axes, "patch_size": patch_size, "overlaps": overlaps, **options}


PLANE, STACK, COLORS, VOLUMES = image(45, 61), image(11, 20, 23), image(2, 3, 30, 29), image(2, 9, 20, 17)
EVEN, UNEVEN = image(48, 64, dtype="float32", n_values=64), image(45, 61, dtype="float32", n_values=64)
WIDE = image(512, 768, dtype="float32", n_values=64)
DARK = np.where(np.indices((45, 61)).sum(axis=0) // 20 % 2, PLANE, 3).astype(np.uint8)
MASK = pl.ArrayStack(np.pad(np.ones((4, 20), np.uint8), [(5, 39), (30, 14)]), axes="YX")

TILES = (16, 12), (5, 4)
CROP = PLANE, "YX", *TILES
CROP_3D = "ZYX", (6, 8, 9), (2, 3, 4)
HALF = "YX", (16, 16), (8, 8)
"""Tiles that overlap by half: the weights of the windows linear and mean are multiples of 2⁻⁸, so sums are exact."""

VALUES = [0, 16, 2, 14, 4, 12, 5, 11, 7, 9, 7, 9, 7, 9, 8, 8]
SPREAD = np.array(VALUES, np.uint8)[np.arange(480).reshape(16, 30) * 7 % 16]
"""Mean 8 and standard deviation 4, exactly."""
RANKS = (np.arange(1025) * 427 % 1025).astype(np.uint16).reshape(25, 41)
"""Each number from 0 to 1024 once: the percentiles 12.5 and 62.5 are 128 and 640."""
MEASURED = pl.measure_normalization(pl.ArrayStack(RANKS, axes="YX"), pl.Percentiles(12.5, 62.5))
GIVEN = pl.Normalization("mean_std/channel", scale=((0.5, 2.0, 0.25),) * 2, offset=((-3.0, 1.0, 0.5),) * 2)

CASES = {
    "crop": case(mark, *CROP),
    "crop, grid": case(mark, *CROP, seams="grid"),
    "crop, default overlaps": case(mark, PLANE, "YX", (16, 12)),
    "crop, no overlap": case(mark, PLANE, "YX", (16, 12), (0, 0)),
    "crop, batches of 16": case(mark, *CROP, batch_size=16),
    "crop, origins on multiples": case(mark, *CROP, origin_multiple=4),
    "crop, grid, origins on multiples": case(mark, *CROP, origin_multiple=(4, 3), seams="grid"),
    "crop, float64": case(mark, PLANE.astype("float64"), "YX", *TILES),
    "crop, many blocks": case(mark, WIDE, "YX", (64, 48), (16, 12), memory_limit=2**20),
    "3D": case(mark, STACK, *CROP_3D),
    "3D, grid": case(mark, STACK, *CROP_3D, seams="grid", batch_size=9),
    "3D, samples": case(mark, VOLUMES, "TZYX", (4, 8, 8), (1, 2, 3)),
    "3D, channels": case(mark, VOLUMES, "CZYX", (4, 8, 8), (1, 2, 3)),
    "samples and channels": case(mark, COLORS, "SCYX", *TILES),
    "axes in another order": case(mark, COLORS, "TXYC", (12, 12), (2, 2)),
    "channels to one": case(project, COLORS, "SCYX", *TILES),
    "2D tiles in a stack": case(mark, STACK, "ZYX", (8, 9), (3, 4), batch_size=5),
    "2D tiles in a stack, blended": case(mark, STACK.astype("float32"), "ZYX", (8, 8), (4, 4), blend="linear"),
    "2D tiles in a stack, samples and channels": case(mark, image(2, 3, 4, 15, 14), "TZCYX", (8, 8), (2, 2)),
    "small image, reflect": case(mark, image(5, 7), "YX", *TILES, padding="reflect"),
    "small image, edge": case(mark, image(5, 7), "YX", *TILES, padding="edge"),
    "small image, wrap": case(mark, image(5, 7), "YX", *TILES, padding="wrap"),
    "small image, constant, 3D": case(mark, image(3, 5, 7), "ZYX", (4, 16, 12), (2, 4, 4), padding="constant"),
    "described model": case(Describing(), PLANE, "YX", None),
    "series": case(mark, [PLANE, image(20, 33), image(5, 6)], "YX", *TILES, batch_size=8),
    "series to OME-Zarr": case(mark, [PLANE, image(20, 33)], "YX", *TILES, output="out"),
    "several outputs": case(outputs, *CROP),
    "several outputs of a series": case(outputs, [PLANE, image(20, 33)], "YX", *TILES),
    "larger": case(enlarge, *CROP),
    "larger, blended": case(enlarge, EVEN, *HALF, blend="linear"),
    "smaller": case(halve, PLANE, "YX", (16, 12), (4, 4)),
    "smaller, blended": case(halve, EVEN, *HALF, blend="mean"),
    "without margin": case(without_margin, PLANE, "YX", (16, 12), (7, 5)),
    "mean over flips": case(pl.AugmentedModel(mark), *CROP),
    "linear": case(mark, EVEN, *HALF, blend="linear"),
    "linear, uneven": case(mark, UNEVEN, *HALF, blend="linear", batch_size=8),
    "linear, 3D": case(mark, STACK.astype("float64"), "ZYX", (4, 8, 8), (2, 4, 4), blend="linear"),
    "linear, large tiles": case(mark, WIDE, "YX", (512, 512), (256, 256), blend="linear"),
    "mean": case(mark, EVEN, *HALF, blend="mean"),
    "mean, uneven": case(mark, UNEVEN, "YX", *TILES, blend="mean"),
    "hann, rounded": case(mark, UNEVEN.astype("float64"), "YX", *TILES, blend="hann", rounded=True),
    "gaussian, rounded": case(mark, UNEVEN.astype("float64"), "YX", *TILES, blend="gaussian", rounded=True),
    "floats to integers": case(mark, UNEVEN / 2 - 9, "YX", *TILES, postprocess="int8"),
    "integers to floats": case(mark, *CROP, postprocess="float32"),
    "argmax": case(classes, *CROP, postprocess="argmax"),
    "argmax of blended": case(classes, EVEN, *HALF, blend="linear", postprocess="argmax"),
    "threshold": case(mark, *CROP, postprocess="threshold:99.5"),
    "channels to integers": case(classes, *CROP, postprocess="channels:2,0|uint16*256"),
    "mean_std": case(mark, SPREAD, "YX", (8, 9), (3, 4), normalize="mean_std"),
    "percentiles": case(mark, RANKS, "YX", *TILES, normalize=pl.Percentiles(12.5, 62.5)),
    "percentiles as values": case(mark, RANKS, "YX", *TILES, normalize=[MEASURED], batch_size=8),
    "mean_std as values": case(mark, COLORS, "SCYX", *TILES, normalize=[GIVEN]),
    "skip dark": case(mark, DARK, "YX", (8, 8), (2, 2), skip=pl.SkipDark(3, fill=17)),
    "skip outside, blended": case(mark, EVEN, *HALF, skip=pl.SkipOutside([MASK]), blend="linear"),
    "OME-Zarr 0.5": case(mark, image(40, 600), "YX", (32, 64), (8, 8), output="out.ome.zarr"),
    "OME-Zarr 0.4, labels": case(
        classes, image(3, 9, 600), *CROP_3D, postprocess="argmax", output="out.ome.zarr", version="0.4"
    ),
    "NumPy file to NumPy file": case(mark, *CROP, file="in.npy", output="out.npy"),
    "TIFF to OME-TIFF": case(
        mark, image(3, 30, 29, dtype="uint16"), "CYX", *TILES, file="in.tif", output="out.ome.tif"
    ),
    "Zarr to array": case(mark, VOLUMES, "CZYX", (4, 8, 8), (1, 2, 3), file="in.zarr"),
}


def run(case: Mapping[str, Any], folder: Path) -> str:
    """Run a case and return the digest of its result."""
    options = {"progress": False, **case}
    rounded, file = options.pop("rounded", False), options.pop("file", None)
    if file is not None:
        options["sources"] = write(folder / file, case["sources"], case["axes"])
    if "output" in case:
        options["output"] = folder / case["output"]
    if "version" in case:
        options["output"] = pl.OmeZarr(options["output"], version=options.pop("version"))
    digest = hashlib.sha256()
    for array in arrays(pl.predict(**options)):
        exact = hundredths(array) if rounded else np.ascontiguousarray(array)
        digest.update(f"{exact.dtype.str} {exact.shape} ".encode() + exact.tobytes())
    return digest.hexdigest()


def hundredths(result: np.ndarray) -> np.ndarray:
    """Round a result whose last bits depend on the machine's sine and exponential, where no value is near a tie."""
    scaled = result.astype(np.float64) * 100
    assert np.abs(scaled % 1 - 0.5).min() > 1e-6
    return np.rint(scaled).astype(np.int64)


def write(path: Path, array: np.ndarray, axes: str) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array, metadata={"axes": axes}, tile=(16, 16), photometric="minisblack")
    else:
        zarr.create_array(path, data=array, chunks=(1, 4, 8, 8))
    return path


def arrays(result: Any) -> Iterator[np.ndarray]:
    """Yield the arrays that `predict` returned or wrote, all levels of a pyramid among them."""
    if isinstance(result, np.ndarray):
        yield result
    elif isinstance(result, Path) and result.is_dir():
        yield from (array[:] for _, array in sorted(zarr.open_group(result, mode="r").arrays()))
    elif isinstance(result, Path):
        yield np.load(result) if result.suffix == ".npy" else tifffile.imread(result)
    else:
        for part in result.values() if isinstance(result, Mapping) else result:
            yield from arrays(part)


@pytest.mark.parametrize("name", CASES)
def test_bytes(name: str, tmp_path: Path) -> None:
    """A result is the same bytes as when it was recorded."""
    assert run(CASES[name], tmp_path) == json.loads(RECORDED.read_text())[name]


def test_cases() -> None:
    """Every recorded digest has its case."""
    assert json.loads(RECORDED.read_text()).keys() == CASES.keys()


def record() -> None:
    digests = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            digests[name] = run(case, Path(folder))
    RECORDED.write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    record()
