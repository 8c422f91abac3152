"""Networks in ZEISS model files: `.czann`, `.czseg` and `.czmodel`."""

from __future__ import annotations

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
from patchloom.prediction.models.czann_metadata import CzannMetadata, read_czann_json, read_czseg_xml
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.models.onnx_model import OnnxModel

LARGEST_METADATA = 2**20
LARGEST_NETWORK = 2**31
"""Bytes that a member of the archive may unpack to. No ONNX file is larger than 2 GiB: Protocol Buffers allow no more."""


class CzannModel:
    """A network in a ZEISS model file, as a callable `(B, C, (Z), Y, X) -> (B, C', (Z), Y, X)`.

    Such a file is a zip archive of an ONNX network and of what its makers declare: tile size and border, class names and
    colors, the scaling of the input. All of it goes into `description` and is applied.

    Parameters
    ----------
    path : path
        The file; by its content a `.czann` (metadata in JSON) or a `.czseg` or `.czmodel` (in XML). It is read into memory,
        never unpacked to disk.
    layout : str, optional
        Axes of the network's input; by default `"NHWC"` or `"NDHWC"`, as the format demands.
    bgr : bool, optional
        Whether the network takes the first three channels of an image blue first. By default as the file says. A `.czann`
        does not say: its channels go in as they come, so a model trained on colors as ZEN delivers them needs `bgr=True`.
    threads : int, optional
        How many threads an operator may use; by default as many as there are cores.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    ModelError
        If it is not such a file, or what it declares contradicts its network.
    MissingExtraError
        If onnxruntime is not installed.

    Notes
    -----
    Integers are divided by the largest value of their dtype, unless the file says that inputs are not scaled; floats are
    taken to be from 0 to 1 already.

    Examples
    --------
    >>> CzannModel("detector.czseg")
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelNotFoundError: there is no model file detector.czseg
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        layout: str | None = None,
        bgr: bool | None = None,
        threads: int | None = None,
    ) -> None:
        path = Path(normalize_path(file_path("path", path)))
        if layout is not None:
            instance("layout", layout, str)
        if bgr is not None:
            flag("bgr", bgr)
        # A worker that reopens the model may run in another directory.
        self._reopen = partial(type(self), path.absolute(), layout=layout, bgr=bgr, threads=threads)
        metadata, network = _read_archive(path)
        self._network = OnnxModel(
            network,
            layout=("NDHWC" if metadata.n_dims == 3 else "NHWC") if layout is None else layout,
            scale="dtype" if metadata.scaled else None,
            channel_order=_channel_order(metadata, bgr),
            threads=threads,
            name=str(path),
        )
        self.description = _combine(metadata, self._network.description, str(path))

    @property
    def identity(self) -> str:
        """The digest of the network, and how it is fed."""
        return self._network.identity

    @property
    def files(self) -> tuple[Path, ...]:
        """The model's file."""
        return (self._reopen.args[0],)

    def __reduce__(self) -> tuple[partial[CzannModel], tuple[()]]:
        return self._reopen, ()

    def __call__(self, batch: NDArray[Any], /) -> NDArray[Any]:
        """Predict a batch; see `Model` and `OnnxModel`."""
        return self._network(batch)


def _combine(declared: CzannMetadata, network: ModelDescription, name: str) -> ModelDescription:
    """Describe a network with what its file declares of it."""
    for what, said, found in (
        ("tiles", declared.patch_size, network.patch_size),
        ("channels", declared.in_channels, network.in_channels),
    ):
        if said is not None and found is not None and said != found:
            raise ModelError(
                f"{name} declares {what} of {said}, but its network takes {found}: if its axes are not those that the "
                "format demands, name them with layout="
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


def _read_archive(path: Path) -> tuple[CzannMetadata, bytes]:
    """Read what a model file declares, and its network."""
    if not path.is_file():
        raise ModelNotFoundError(f"there is no model file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = _find_member(archive, ("json", "xml"))
            network = _find_member(archive, ("model",))
            read_metadata = read_czann_json if metadata.filename.lower().endswith("json") else read_czseg_xml
            declared = read_metadata(_read_member(archive, metadata, LARGEST_METADATA))
            return declared, _read_member(archive, network, LARGEST_NETWORK)
    except ModelError as error:
        raise ModelError(f"{path} is no ZEISS model file that can be run: {error}") from error
    except Exception as error:  # each way to pack a member, to damage it or to encrypt it has an error of its own
        raise ModelError(f"{path} is no ZEISS model file, or it is damaged: {error}") from error


def _find_member(archive: zipfile.ZipFile, suffixes: tuple[str, ...]) -> zipfile.ZipInfo:
    for member in archive.infolist():
        if member.filename.lower().endswith(tuple(f".{suffix}" for suffix in suffixes)):
            return member
    wanted = " or ".join(f"*.{suffix}" for suffix in suffixes)
    raise ModelError(f"its archive holds no {wanted}, but {archive.namelist()[:5]}")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, largest: int) -> bytes:
    if member.file_size > largest:
        raise ModelError(
            f"{member.filename} in its archive is said to be of {member.file_size} bytes: at most {largest}"
        )
    with archive.open(member) as packed:
        # Unpacks no more than asked for, should the archive say less than the truth; which then shows in the checksum.
        return packed.read(member.file_size)
