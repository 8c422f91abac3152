from pathlib import Path

import pytest

from patchloom.sinks.output_paths import series_destinations


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["https://a.org/cells.zarr?token=1/2", "https://a.org/other.zarr/"], ["cells", "other"]),
        (["../a/cells.tif", "../b/cells.tif"], ["a-cells", "b-cells"]),
        (["../cells.tif", "cells.npy"], ["cells", "cells-2"]),
    ],
)
def test_names_of_sources(sources, names):
    """Outputs have the names of their sources, for all spellings."""
    assert series_destinations(sources, Path("out")) == [Path("out", f"{name}.ome.zarr") for name in names]
