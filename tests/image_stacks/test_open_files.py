"""More images than a process may have open files."""

import subprocess
import sys
import textwrap

import pytest

from patchloom.image_stacks.open_files import OpenFiles

SCRIPT = """
    import resource, sys
    import numpy as np, tifffile, tensorstore as ts, patchloom as pl
    from pylibCZIrw import czi
    folder, kind, count = sys.argv[1], sys.argv[2], 150
    images = np.random.default_rng(0).integers(0, 255, (count, 8, 9), np.uint8)
    for number, image in enumerate(images):
        path = f"{folder}/{number:03}.{kind}"
        if kind == "tif":
            tifffile.imwrite(path, image, compression="zlib" if number % 2 else None)
        elif kind == "npy":
            np.save(path, image)
        elif kind == "czi":
            with czi.create_czi(path) as file:
                file.write(image[..., None], plane={"C": 0})
        else:
            metadata = {"shape": [8, 9], "data_type": "uint8", "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 4]}}}
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path + "/"}, "metadata": metadata}
            ts.open(spec, create=True).result()[...] = image
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    stacks = pl.open_stacks(folder, "YX")
    extractor = pl.PatchExtractor(stacks)
    for data_idx in [*range(count), *np.random.default_rng(1).permutation(count).tolist()]:
        assert (extractor.extract_patch(data_idx, 0, (0, 0), (8, 9)) == images[data_idx]).all(), data_idx
"""


@pytest.mark.parametrize("kind", ["tif", "npy", "czi", "zarr"])
def test_long_series(tmp_path, kind):
    """A series of more files than a process may open is read."""
    subprocess.run([sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), kind], check=True)


class Image:
    """Something that a file belongs to."""


def test_eviction():
    """The least recently used file is evicted first."""
    files, images = OpenFiles(2), [Image() for _ in range(3)]
    first, second = (files.of(image, object) for image in images[:2])
    assert files.of(images[0], object) is first
    files.of(images[2], object)
    assert files.of(images[0], object) is first
    assert files.of(images[1], object) is not second
    del images[:]
    assert len(files) <= 1  # of the loop variable
