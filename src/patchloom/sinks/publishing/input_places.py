"""The places of the inputs of a run, so that none of its outputs replaces, contains or enters one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from patchloom.errors import SinkError
from patchloom.local_paths import is_url, normalize_path
from patchloom.sinks.publishing.destination import names_beside, resolved

_Key = str | tuple[int, int]
"""A place: its path without links, or its number in the file system, which does not depend on its name."""


class InputPlaces:
    """The places of all inputs of a run.

    Links, `..`, hard links and spellings that a file system treats as equal make no difference.

    Parameters
    ----------
    sources : iterable of str or Path
        The inputs. Arrays (`"array"`) and remote inputs are skipped.
    """

    def __init__(self, sources: Iterable[str | Path]) -> None:
        self._at: dict[_Key, str | Path] = {}
        self._inside: dict[_Key, str | Path] = {}
        for source in sources:
            local = _local_path(source)
            if local is not None:
                place = local.resolve()
                self._at.update(dict.fromkeys(_keys(place), source))
                for folder in place.parents:
                    if str(folder) in self._inside:
                        break  # and therefore all folders around it
                    self._inside.update(dict.fromkeys(_keys(folder), source))

    def check_apart(self, path: str | Path) -> None:
        """Check that an output, with the names beside it, is apart from all inputs.

        Parameters
        ----------
        path : str or Path
            The output.

        Raises
        ------
        SinkError
            If the output is an input, is inside one or contains one. The message names both.
        """
        output = resolved(path)
        self._check_free(output, f"the output {path}")
        self.check_names_beside(path)
        for folder in output.parents:
            for key in _keys(folder):
                if key in self._at:
                    raise _touches(f"the output {path} lies inside the input {self._at[key]}")

    def check_names_beside(self, path: str | Path) -> None:
        """Check that no input has one of the names beside an output that are written and removed during a run.

        Parameters
        ----------
        path : str or Path
            The output.

        Raises
        ------
        SinkError
            If one does. The message names both.
        """
        for place in names_beside(path):
            self._check_free(place, f"{place.name}, which the output {path} uses during the run,")

    def _check_free(self, place: Path, what: str) -> None:
        for key in _keys(place):
            if key in self._at:
                raise _touches(f"{what} is the input {self._at[key]}")
            if key in self._inside:
                raise _touches(f"{what} contains the input {self._inside[key]}")


def check_apart(path: str | Path, sources: Iterable[str | Path]) -> None:
    """Check that an output is apart from all inputs.

    Parameters
    ----------
    path : str or Path
        The output.
    sources : iterable of str or Path
        The inputs. Arrays (`"array"`) and remote inputs are skipped.

    Raises
    ------
    SinkError
        If the output is an input, is inside one or contains one. The message names both.

    Examples
    --------
    >>> check_apart("raw.zarr/out.zarr", ["other.tif", "raw.zarr"])
    Traceback (most recent call last):
        ...
    patchloom.errors.SinkError: the output raw.zarr/out.zarr lies inside the input raw.zarr: choose another output
    """
    InputPlaces(sources).check_apart(path)


def _keys(place: Path) -> Iterator[_Key]:
    yield str(place)
    try:
        status = place.stat()
    except (OSError, ValueError):
        return
    if status.st_ino:  # 0 on file systems without such numbers
        yield status.st_dev, status.st_ino


def _touches(what: str) -> SinkError:
    return SinkError(f"{what}: choose another output")


def _local_path(source: str | Path) -> Path | None:
    place = normalize_path(source)
    return None if str(source) == "array" or is_url(place) else Path(place)
