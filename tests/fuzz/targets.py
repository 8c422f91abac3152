"""The formats under test, by name. A new one is a module with its seeds and its use, and a line here."""

from __future__ import annotations

import czi_target
import model_targets
import store_targets
import tiff_target
from bounded_process import Target

TARGETS: dict[str, Target] = {
    "tiff": tiff_target.TIFF,
    "ome-xml": tiff_target.OME_XML,
    "npy": store_targets.NPY,
    "zarr-v2": store_targets.ZARR_V2,
    "zarr-v3": store_targets.ZARR_V3,
    "ome-zarr": store_targets.OME_ZARR,
    "ome-zarr-metadata": store_targets.OME_ZARR_METADATA,
    "n5": store_targets.N5,
    "czi": czi_target.CZI,
    "spec-tables": store_targets.SPEC_TABLES,
    "scores": store_targets.SCORES,
    "torch-script": model_targets.TORCH_SCRIPT,
    "torch-program": model_targets.TORCH_PROGRAM,
    "torch-weights": model_targets.TORCH_WEIGHTS,
    "onnx": model_targets.ONNX,
    "czann": model_targets.CZANN,
    "bioimageio": model_targets.BIOIMAGEIO,
    "careamics": model_targets.CAREAMICS,
    "monai": model_targets.MONAI,
}
