"""CZI: bytes of whole files, read by the vendor's library, which may end its process."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
from pylibCZIrw import czi

from bounded_process import Target
from image_use import open_and_read
from mutations import Seed

_IDENTIFIER = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _czi(name: str, compression: str, shape: tuple[int, ...], dtype: str, samples: int = 1, n_scenes: int = 1) -> Seed:
    rng = np.random.default_rng(len(name))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.czi")
        with czi.create_czi(str(path), compression_options=compression) as file:
            for scene in range(n_scenes):
                for c, z in np.ndindex(*shape):
                    pixels = rng.integers(0, 200, (20, 30, samples)).astype(dtype)
                    plane = {"C": c, "Z": z}
                    file.write(pixels, location=(100 * scene, 0), plane=plane, scene=scene)
            file.write_metadata("cells", channel_names={0: "DAPI"}, scale_x=1e-7, scale_y=1e-7, scale_z=5e-7)
        content = path.read_bytes()
    # The identifiers of the file, and those of its tiles, are drawn anew each time.
    content = content[:48] + bytes(32) + content[80:]
    content = _IDENTIFIER.sub(b"0" * 8 + 3 * b"-0000" + b"-" + b"0" * 12, content)
    main = "image.czi@1" if n_scenes > 1 else "image.czi"
    return Seed(name, {"image.czi": content}, main)


def _seeds() -> list[Seed]:
    return [
        _czi("raw", "uncompressed:", (2, 3), "uint16"),
        _czi("zstd0", "zstd0:ExplicitLevel=2", (1, 2), "uint16"),
        _czi("zstd1", "zstd1:ExplicitLevel=2", (1, 2), "uint8"),
        _czi("rgb", "uncompressed:", (1, 2), "uint8", samples=3),
        _czi("scenes", "uncompressed:", (1, 2), "uint8", n_scenes=2),
    ]


CZI = Target(_seeds, open_and_read, 0.3)
