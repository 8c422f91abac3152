"""Predict nuclei in a real microscope image with a real network, write an OME-Zarr, and draw a figure of a seam.

The image (phase gradient, 2755 × 3675 pixels) and the network (nucleus detection, tiles of 1024 × 1024 pixels) are files of the
PyPI package napari-czann-segment (BSD-3). `make demo` installs it for these files only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from pathlib import Path
from typing import get_args

import numpy as np

import patchloom as pl
from patchloom.geometry.blend_weights import BlendWindow

PACKAGE = "napari-czann-segment"
NUCLEUS = 1
"""Output channel of the network for nuclei; channel 0 is background."""


def sample_file(name: str) -> Path:
    """Return the path of a file in the data package, without importing the package."""
    files = importlib.metadata.files(PACKAGE) or []
    return next(Path(str(file.locate())) for file in files if file.name == name)


def run(output: Path, blend: BlendWindow | None = None) -> None:
    """Predict with the overlap that the network declares and without overlap, and compare the seams.

    A killed run is resumed when the demo is started again. A finished output is replaced.
    """
    output.mkdir(exist_ok=True)
    image_file, model_file = sample_file("PGC_20X.czi"), sample_file("PGC_20X_nucleus_detector.czseg")
    model = pl.load_model(model_file)

    started = time.monotonic()
    nuclei = output / "nuclei.ome.zarr"
    pl.predict(model, image_file, nuclei, blend=blend, overwrite=nuclei.exists())
    print(f"wrote {nuclei} in {time.monotonic() - started:.0f} s")
    print("now without overlap, for comparison:")
    no_overlap = pl.predict(model, image_file, overlaps=(0, 0))

    tiling = pl.plan(image_file, model=model).tiling
    tiling_no_overlap = pl.plan(image_file, model=model, overlaps=(0, 0)).tiling
    whole = pl.WholeSamplePatching(tiling.data_shapes)[0]
    predicted = pl.PatchExtractor(pl.open_stacks(nuclei)).extract(whole)
    (stack,) = pl.open_stacks(image_file)
    image = pl.PatchExtractor([stack]).extract(whole)[0]

    with_overlap = pl.seam_visibility(predicted[np.newaxis], tiling)
    without = pl.seam_visibility(no_overlap[np.newaxis], tiling_no_overlap)
    print(f"declared overlap {tiling.overlaps}: {with_overlap}")
    print(f"no overlap: {without}, {without.ratio / with_overlap.ratio:.1f} times as large")

    seam_y, seam_x = tiling_no_overlap[0]["crop_size"]
    zoom = (slice(seam_y - 120, seam_y + 120), slice(seam_x - 120, seam_x + 120))
    predictions = {
        "nuclei, no overlap": no_overlap[NUCLEUS],
        f"nuclei, {tiling.overlaps[0]} px overlap": predicted[NUCLEUS],
    }
    picture = output / "nuclei.png"
    pixel_size = stack.metadata.voxel_size["X"]  # micrometers
    pl.figures.save_figure(
        pl.figures.prediction_figure(image, predictions, tiling, zoom=zoom, pixel_size=pixel_size), picture
    )
    print(f"see {picture}, and open {nuclei} in an OME-Zarr viewer (napari, Fiji, QuPath)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write to")
    parser.add_argument("--blend", choices=get_args(BlendWindow), help="blend overlapping tiles instead of cropping")
    run(**vars(parser.parse_args()))
