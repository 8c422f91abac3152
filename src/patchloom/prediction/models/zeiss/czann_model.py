"""Networks in ZEISS model files: `.czann`, `.czseg` and `.czmodel`."""

from __future__ import annotations

import copy
import zipfile
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from patchloom.argument_checks import file_path, flag, instance
from patchloom.errors import ModelError, ModelNotFoundError
from patchloom.local_paths import normalize_path
from patchloom.prediction.models.devices import Precision
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.models.onnx.onnx_model import OnnxModel
from patchloom.prediction.models.zeiss.czann_metadata import CzannMetadata, read_czann_json, read_czseg_xml

LARGEST_METADATA = 2**20
LARGEST_NETWORK = 2**31
"""Largest size of an unpacked member of the archive, in bytes. Protocol Buffers limit an ONNX file to 2 GiB."""


class CzannModel:
    """A network in a ZEISS model file, as a callable `(B, C, (Z), Y, X) -> (B, C', (Z), Y, X)`.

    Such a file is a zip archive of an ONNX network and its metadata: tile size and border, class names and colors, scaling of the
    input. `description` contains all of it, and it is applied.

    Parameters
    ----------
    path : path
        The file. Its metadata are JSON (`.czann`) or XML (`.czseg`, `.czmodel`). It is read into memory, never unpacked to disk.
    layout : str, optional
        Axes of the network's input, outermost first. If None, `"NHWC"` or `"NDHWC"`, as the format requires.
    bgr : bool, optional
        Whether the network takes the first three channels of an image in the order blue, green, red. If None, the order that the
        file declares. A `.czann` file declares none: its network gets channels in the order of the image, so a model trained on
        the colors that ZEN delivers needs `bgr=True`.
    threads : int, optional
        Number of threads that an operator may use on the CPU. If None, the number of cores.
    device : str
        Where the network runs; see `OnnxModel`.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    ModelError
        If it is not such a file, or its metadata contradict its network.
    MissingExtraError
        If onnxruntime is not installed.

    Notes
    -----
    Integers are divided by the largest value of their dtype, unless the file declares that inputs are not scaled. Floats are
    expected to be from 0 to 1 already.

    Examples
    --------
    >>> CzannModel("detector.czseg")
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelNotFoundError: there is no model file detector.czseg: check the path
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        layout: str | None = None,
        bgr: bool | None = None,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        path = Path(normalize_path(file_path("path", path)))
        if layout is not None:
            instance("layout", layout, str)
        if bgr is not None:
            flag("bgr", bgr)
        # Absolute, as another process that opens the model again may run in another directory.
        self._reopen = partial(type(self), path.absolute(), layout=layout, bgr=bgr, threads=threads, device=device)
        metadata, network = read_archive(path)
        self._network = OnnxModel(
            network,
            layout=("NDHWC" if metadata.n_dims == 3 else "NHWC") if layout is None else layout,
            scale="dtype" if metadata.scaled else None,
            channel_order=_channel_order(metadata, bgr),
            threads=threads,
            device=device,
            name=str(path),
        )
        self.description = _combine(metadata, self._network.description, str(path))

    @property
    def identity(self) -> str:
        """The digest of the network and the options that change what it computes."""
        return self._network.identity

    @property
    def files(self) -> tuple[Path, ...]:
        """The model's file."""
        return (self._reopen.args[0],)

    def __reduce__(self) -> tuple[partial[CzannModel], tuple[()]]:
        return self._reopen, ()

    def on(self, device: str | None, precision: Precision | None, /) -> CzannModel:
        """Return the model on a device; see `RunsOnDevice` and `OnnxModel.on`."""
        network = self._network.on(device, precision)
        if network is self._network:
            return self
        moved = copy.copy(self)
        moved._network = network  # noqa: SLF001  # of its own class
        moved._reopen = partial(self._reopen, device=network.device)  # noqa: SLF001
        return moved

    def __call__(self, batch: NDArray[Any], /) -> Any:
        """Predict a batch; see `Model` and `OnnxModel`."""
        return self._network(batch)


def _combine(declared: CzannMetadata, network: ModelDescription, name: str) -> ModelDescription:
    """Return the description of a network, with the metadata of its file."""
    for what, declared_value, found in (
        ("tiles", declared.patch_size, network.patch_size),
        ("channels", declared.in_channels, network.in_channels),
    ):
        if declared_value is not None and found is not None and declared_value != found:
            raise ModelError(
                f"{name} declares {what} of {declared_value}, but its network takes {found}: give the axes of the network with "
                "layout= if they are not those of the format"
            )
    names, colors = (
        values if network.out_channels in (None, len(values)) else ()
        for values in (declared.class_names, declared.class_colors)
    )
    return replace(
        network,
        patch_size=declared.patch_size or network.patch_size,
        overlaps=declared.overlaps,
        in_channels=network.in_channels or declared.in_channels,
        out_channel_names=names,
        out_channel_colors=colors,
    )


def _channel_order(metadata: CzannMetadata, bgr: bool | None) -> tuple[int, ...] | None:  # noqa: FBT001  # of bgr=
    if bgr is None:
        return metadata.channel_order
    return (2, 1, 0, *range(3, metadata.in_channels or 3)) if bgr else None


def read_archive(path: Path, *, largest_network: int = LARGEST_NETWORK) -> tuple[CzannMetadata, bytes]:
    """Read the metadata and the network of a model file.

    Parameters
    ----------
    path : Path
        The file.
    largest_network : int
        Largest size of the unpacked network, in bytes.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    ModelError
        If it is not a model file of ZEISS, or it is damaged or too large.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"there is no model file {path}: check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = _find_member(archive, ("json", "xml"))
            network = _find_member(archive, ("model",))
            read_metadata = read_czann_json if metadata.filename.lower().endswith("json") else read_czseg_xml
            declared = read_metadata(_read_member(archive, metadata, LARGEST_METADATA))
            return declared, _read_member(archive, network, largest_network)
    except ModelError as error:
        raise ModelError(f"{path} is not a ZEISS model file that can be run: {error}") from error
    except Exception as error:  # each compression, damage and encryption raises another error
        raise ModelError(f"{path} is not a ZEISS model file, or it is damaged: {error}") from error


def _find_member(archive: zipfile.ZipFile, suffixes: tuple[str, ...]) -> zipfile.ZipInfo:
    for member in archive.infolist():
        if member.filename.lower().endswith(tuple(f".{suffix}" for suffix in suffixes)):
            return member
    wanted = " or ".join(f"*.{suffix}" for suffix in suffixes)
    raise ModelError(f"its archive contains {archive.namelist()[:5]}, but not {wanted}")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, largest: int) -> bytes:
    if member.file_size > largest:
        raise ModelError(
            f"{member.filename} in its archive unpacks to {member.file_size} bytes: at most {largest} are read"
        )
    with archive.open(member) as packed:
        # At most the declared number of bytes is unpacked. If the declaration is wrong, the checksum differs.
        return packed.read(member.file_size)
