"""From a real microscope file and a real network to a stitched OME-Zarr, and a picture that shows the seams are gone.

The image (a phase-gradient well plate scan, 2755 × 3675) and the network (nucleus detection, fixed 1024 × 1024 tiles) are
those of the PyPI package napari-czann-segment (BSD-3), which `make demo` installs for its files; its code is not used.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from pathlib import Path
from typing import get_args

import numpy as np

import patchloom as pl
from patchloom.figures import prediction_figure
from patchloom.geometry.blend_weights import BlendWindow

PACKAGE = "napari-czann-segment"
NUCLEUS = 1
"""Channel of the network's output: 0 is background, 1 is nucleus."""


def sample_file(name: str) -> Path:
    """Find a file of the data package without importing it."""
    files = importlib.metadata.files(PACKAGE) or []
    return next(Path(str(file.locate())) for file in files if file.name == name)


def run(output: Path, blend: BlendWindow | None = None) -> None:
    """Predict with the overlap that the network declares, and with none; compare the seams.

    A run that was killed goes on where it was when it is started again; one that was finished is replaced.
    """
    output.mkdir(exist_ok=True)
    image_file, model_file = sample_file("PGC_20X.czi"), sample_file("PGC_20X_nucleus_detector.czseg")
    model = pl.load_model(model_file)

    started = time.monotonic()
    nuclei = output / "nuclei.ome.zarr"
    pl.predict(model, image_file, nuclei, blend=blend, overwrite=nuclei.exists())
    print(f"wrote {nuclei} in {time.monotonic() - started:.0f} s")
    print("the same without any overlap, to see what that costs:")
    careless = pl.predict(model, image_file, overlaps=(0, 0))

    tiling = pl.plan(image_file, model=model).tiling
    butted = pl.plan(image_file, model=model, overlaps=(0, 0)).tiling
    whole = pl.WholeSamplePatching(tiling.data_shapes)[0]
    seamless = pl.PatchExtractor(pl.open_stacks(nuclei)).extract(whole)
    image = pl.PatchExtractor(pl.open_stacks(image_file)).extract(whole)[0]

    with_overlap = pl.seam_jump_ratio(seamless[np.newaxis], tiling)
    without = pl.seam_jump_ratio(careless[np.newaxis], butted)
    print("seam quality (mean jump across seams / mean jump elsewhere; 1 is invisible):")
    print(f"  declared overlap {tiling.overlaps}: {with_overlap:.2f}")
    print(f"  no overlap: {without:.2f}, {without / with_overlap:.1f} times as much")

    seam_y, seam_x = butted[0]["crop_size"]
    zoom = (slice(seam_y - 120, seam_y + 120), slice(seam_x - 120, seam_x + 120))
    predictions = {"nuclei, no overlap": careless[NUCLEUS], "nuclei": seamless[NUCLEUS]}
    picture = output / "nuclei.png"
    prediction_figure(image, predictions, tiling, zoom=zoom).savefig(picture, dpi=80)
    print(f"look at {picture}, and open {nuclei} in any OME-Zarr viewer (napari, Fiji, QuPath)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write to")
    parser.add_argument(
        "--blend", choices=get_args(BlendWindow), help="blend overlapping tiles instead of cropping them"
    )
    run(**vars(parser.parse_args()))
