"""Lateral context: patches with their surroundings at coarser and coarser scales, in the same number of voxels.

Scale 0 is the patch. Scale `s` covers `2**s` times its size along each axis, around the same center `coords + size // 2`, and
is downscaled to the size of the patch. Only the window of the coarsest scale is read: the other windows are views of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import flag, instance
from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError
from patchloom.extraction.downscaling import Downscale, check_downscale, halve_sums, resize
from patchloom.extraction.patch_extractor import PatchExtractor, empty_batch
from patchloom.extraction.series_windows import SeriesWindows
from patchloom.extraction.window_reads import Windows
from patchloom.geometry.checks import whole_number
from patchloom.pixel_arrays import check_fillable
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.specs.spec_table import SpecTable

_MAX_BYTES = 16 << 20
"""Bytes of windows that are in memory at a time; more would leave the processor's cache before they are downscaled."""

_MOST_SCALES = 16


def extract_lateral_context(
    extractor: PatchExtractor,
    specs: SpecTable | Iterable[PatchSpecs],
    n_scales: int,
    *,
    downscale: Downscale = "mean",
    scale_z: bool = True,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Read patches at several scales around the same center.

    The result is that of padding the whole image as the extractor does, cutting windows out of it and downscaling them.

    Parameters
    ----------
    extractor : PatchExtractor
        Reads and pads the patches.
    specs : SpecTable or iterable of PatchSpecs
        Patches of one kind and size. With `UncorrelatedPatchSpecs`, each channel has the surroundings of its own position.
    n_scales : int
        Number of scales L, the patch itself among them; from 1 to 16.
    downscale : {"mean", "resize"}, default "mean"
        By the mean of blocks, or as `skimage.transform.resize` does, for models trained with CAREamics.
    scale_z : bool, default True
        Whether coarser scales cover more along Z too, in 3D.
    out : array, optional
        `(B, C, L, (Z), Y, X)` array of floats to fill. If None, a new array of `float32` is returned.

    Returns
    -------
    array
        `(B, C, L, (Z), Y, X)`: `out`, or the new array.

    Raises
    ------
    GeometryError
        If `n_scales` is not from 1 to 16, `downscale` is something else, or `out` does not fit or cannot be written to.
    SpecError
        If a specification points outside the series, or they differ in size or kind.
    SourceError
        If the pixels cannot be read.

    Examples
    --------
    >>> from patchloom.image_stacks import ArrayStack
    >>> extractor = PatchExtractor([ArrayStack(np.arange(64.0).reshape(8, 8), "YX")], padding="reflect")
    >>> spec = {"data_idx": 0, "sample_idx": 0, "coords": (3, 3), "patch_size": (2, 2)}
    >>> extract_lateral_context(extractor, [spec], n_scales=2)[0, 0].tolist()
    [[[27.0, 28.0], [35.0, 36.0]], [[22.5, 24.5], [38.5, 40.5]]]
    """
    instance("extractor", extractor, PatchExtractor)
    flag("scale_z", scale_z)
    check_downscale(downscale)
    scales = checked_scales(n_scales)
    table = SpecTable.from_specs(specs)
    size = extractor.locate(table).patch_size
    shape = (len(table), extractor.n_channels, scales, *size)
    if out is None:
        out = empty_batch(shape, np.float32)
    else:
        check_fillable("out", out, shape)
        if out.dtype.kind != "f":
            raise GeometryError(f"out is {out.dtype}, but it must be floats: means of pixels are fractions")
        extractor.check_apart(out, np.unique(table.columns.get("all_data_idx", table.columns["data_idx"])).tolist())
    windows = extractor.locate(context_windows(table, scales, scale_z=scale_z))
    fill_scales(extractor, windows, out, downscale=downscale, scale_z=scale_z)
    return out


def fill_scales(
    extractor: PatchExtractor,
    windows: SeriesWindows,
    out: NDArray[Any],
    *,
    downscale: Downscale = "mean",
    scale_z: bool = True,
    max_bytes: int = _MAX_BYTES,
) -> None:
    """Fill a batch with all scales of located patches.

    Parameters
    ----------
    extractor : PatchExtractor
        Reads and pads.
    windows : SeriesWindows
        Windows of the coarsest scale, as `context_windows` gives them, located by the extractor.
    out : array
        `(B, C, L, (Z), Y, X)` of floats.
    downscale : {"mean", "resize"}
        As of `extract_lateral_context`.
    scale_z : bool
        As of `extract_lateral_context`.
    max_bytes : int
        Bytes of windows that are read at a time, one window at least.
    """
    grows = _grows(out.ndim - 3, scale_z=scale_z)
    n_bytes = prod((extractor.n_channels, *windows.patch_size)) * extractor.data_dtype.itemsize
    at_once = min(max(1, max_bytes // n_bytes), len(out))
    # One array for all portions: fresh memory takes longer to allocate than to fill.
    read = empty_batch((at_once, extractor.n_channels, *windows.patch_size), extractor.data_dtype)
    for start in range(0, len(out), at_once):
        some = windows.of_patches(start, min(start + at_once, len(out)))
        extractor.extract_located(some, read[: some.n_patches])
        for patch, window in zip(out[start:], read[: some.n_patches], strict=False):
            _downscale(window, patch, grows, downscale)


def middle_windows(windows: SeriesWindows, size: Sequence[int]) -> SeriesWindows:
    """Return the windows of the patches themselves, given those of their coarsest scale and the size of a patch."""
    corners, extent, places = windows.windows
    shift = [whole // 2 - side // 2 for whole, side in zip(windows.patch_size, size, strict=True)]
    inner = Windows(corners + np.array([0, 0, *shift]), (extent[0], *size), places)
    return windows._replace(patch_size=tuple(size), windows=inner)


def context_windows(specs: SpecTable, n_scales: int, *, scale_z: bool = True) -> SpecTable:
    """Return the windows that the coarsest scale of patches covers.

    Parameters
    ----------
    specs : SpecTable
        The patches.
    n_scales : int
        Number of scales.
    scale_z : bool, default True
        Whether coarser scales cover more along Z too.

    Returns
    -------
    SpecTable
        The windows, as `PatchSpecs` or `UncorrelatedPatchSpecs`; tiles lose their fields for stitching.

    Examples
    --------
    >>> table = SpecTable.from_specs([{"data_idx": 0, "sample_idx": 0, "coords": (8, 8), "patch_size": (4, 5)}])
    >>> context_windows(table, 3)[0]
    {'data_idx': 0, 'sample_idx': 0, 'coords': (2, 0), 'patch_size': (16, 20)}
    """
    size = specs.columns["patch_size"]
    factors = np.where(_grows(size.shape[1], scale_z=scale_z), 2 ** (n_scales - 1), 1)
    shift = size // 2 - size * factors // 2
    columns = {field: column for field, column in specs.columns.items() if field in _KEPT}
    columns |= {"coords": columns["coords"] + shift, "patch_size": size * factors}
    if "all_coords" in columns:
        columns["all_coords"] = columns["all_coords"] + shift[:, np.newaxis]
    return SpecTable(columns)


_KEPT = {
    *("data_idx", "sample_idx", "coords", "patch_size"),
    *("principal_channel", "all_data_idx", "all_sample_idx", "all_coords"),
}


def checked_scales(n_scales: int, name: str = "n_scales") -> int:
    """Check a number of scales, and return it.

    Raises
    ------
    GeometryError
        If it is not from 1 to 16.
    """
    number = whole_number(name, n_scales)
    if not 1 <= number <= _MOST_SCALES:
        raise GeometryError(f"{name} is {number}: it must be from 1, the patch alone, to {_MOST_SCALES}")
    return number


def check_context_fits(
    data_shapes: Sequence[Sequence[int]],
    patch_size: Sequence[int],
    n_scales: int,
    *,
    scale_z: bool = True,
    name: str = "n_scales",
) -> None:
    """Refuse a number of scales whose windows are larger than an image: most of the context would be padding.

    Raises
    ------
    GeometryError
        If the window of the coarsest scale is larger than an image. The message names the number of scales that fit.

    Examples
    --------
    >>> check_context_fits([(1, 2, 100, 300)], (32, 32), n_scales=3)
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: n_scales is 3: scale 2 covers 128 voxels along Y, but image stack 0 has 100 there (shape
    (1, 2, 100, 300)): take at most 2 scales, or a smaller patch
    """
    for scale in range(n_scales):
        factors = [2**scale if grows else 1 for grows in _grows(len(patch_size), scale_z=scale_z)]
        for data_idx, shape in enumerate(data_shapes):
            sides = zip(spatial_axes(len(patch_size)), patch_size, factors, shape[2:], strict=True)
            for axis, size, factor, limit in sides:
                if scale and factor > 1 and size * factor > limit:
                    instead = ", or scale_z=False" if axis == "Z" else ""
                    raise GeometryError(
                        f"{name} is {n_scales}: scale {scale} covers {size * factor} voxels along {axis}, but image stack "
                        f"{data_idx} has {limit} there (shape {tuple(shape)}): take at most {scale} "
                        f"scale{'s' * (scale > 1)}, or a smaller patch{instead}"
                    )


def _grows(n_dims: int, *, scale_z: bool) -> tuple[bool, ...]:
    """Return for each spatial axis whether coarser scales cover more of it."""
    return (*(scale_z,) * (n_dims - 2), True, True)


def _downscale(window: NDArray[Any], patch: NDArray[Any], grows: tuple[bool, ...], downscale: Downscale) -> None:
    """Fill `(C, L, (Z), Y, X)` from the window of the coarsest scale, `C(Z)YX`."""
    n_scales, size = patch.shape[1], patch.shape[2:]
    patch[:, 0] = window[_center(window.shape[1:], size)]
    if downscale == "resize":
        for scale in range(1, n_scales):
            factors = [2**scale if one else 1 for one in grows]
            covered = _center(window.shape[1:], [side * factor for side, factor in zip(size, factors, strict=True)])
            patch[:, scale] = resize(window[covered], factors)
        return
    _block_means(window, patch, grows)


def _block_means(window: NDArray[Any], patch: NDArray[Any], grows: tuple[bool, ...]) -> None:
    n_scales, size = patch.shape[1], patch.shape[2:]
    in_step = all(side % 2 == 0 for side, one in zip(size, grows, strict=True) if one)
    sums = window
    for scale in range(1, n_scales):
        if in_step:  # the blocks of all scales lie on one grid, so sums of sums serve the next scale
            sums = halve_sums(sums, halve_z=grows[0])
        else:
            covered = [side << scale if one else side for side, one in zip(size, grows, strict=True)]
            sums = window[_center(window.shape[1:], covered)]
            for _ in range(scale):
                sums = halve_sums(sums, halve_z=grows[0])
        n_voxels = 2 ** (scale * sum(grows))
        np.multiply(sums[_center(sums.shape[1:], size)], 1 / n_voxels, out=patch[:, scale], casting="same_kind")


def _center(shape: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """Return the index of the box in the middle of a window; `size // 2` is the middle of an odd size."""
    starts = (whole // 2 - side // 2 for whole, side in zip(shape, size, strict=True))
    return (slice(None), *(slice(start, start + side) for start, side in zip(starts, size, strict=True)))
