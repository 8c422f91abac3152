"""What blocks need of their sources: counted chunk by chunk, it is what the plan says."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.image_stacks import ZarrStack
from patchloom.prediction import plan
from patchloom.prediction.planning import fit
from patchloom.prediction.planning.summary import source_bytes_by_block


@settings(deadline=None, max_examples=30)
@given(data=st.data(), n_dims=st.integers(2, 3))
def test_source_bytes_by_block(data: st.DataObject, n_dims: int) -> None:
    """Blocks cost the chunks that their tiles touch."""
    shape = data.draw(st.tuples(*[st.integers(1, 30)] * n_dims))
    chunk = [data.draw(st.integers(1, size)) for size in shape]
    patch_size = [data.draw(st.integers(1, 9)) for _ in shape]
    options: dict[str, Any] = {
        "patch_size": patch_size,
        "overlaps": [data.draw(st.integers(0, size - 1)) for size in patch_size],
        "blend": data.draw(st.sampled_from([None, "hann"])),
        "seams": data.draw(st.sampled_from([None, "grid"])),
        "axes": "ZYX"[-n_dims:],
    }
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "BLOCK_SIZES", [data.draw(st.integers(20, 2000))])
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(Path(folder, "in.zarr"))}}
        layout = ts.ChunkLayout(chunk_shape=chunk)
        ts.open(spec, create=True, dtype=ts.uint16, shape=shape, chunk_layout=layout).result()
        prepared = plan(ZarrStack(Path(folder, "in.zarr"), options["axes"]), **options)
    total = 0
    for number in range(prepared.n_blocks):
        touched = np.zeros(shape, bool)
        for spec in prepared.tiling.specs(prepared.schedules[0].tiles_of(number).tolist()).to_specs():
            box = zip(spec["coords"], spec["patch_size"], chunk, strict=True)
            touched[
                tuple(
                    slice(max(a, 0) // c * c, -(-min(a + p, n) // c) * c)
                    for (a, p, c), n in zip(box, shape, strict=True)
                )
            ] = True
        total += touched.sum() * 2
    assert source_bytes_by_block(prepared) == total
