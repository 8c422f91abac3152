"""What can go wrong, as a hierarchy in which every class is a built-in as well.

::

    PatchloomError
    ├── AxesError              (ValueError)         an axes string does not fit an image
    ├── ArgumentError          (ValueError)         an argument has a value that is not allowed
    │   ├── ArgumentTypeError  (TypeError)          an argument is of another type
    │   └── GeometryError      (ValueError)         a size, overlap or shape makes no sense
    │       └── NotIntegerError  (TypeError)          a size or index is a float or a bool
    ├── PatchIndexError        (IndexError)         a plan has no such patch, a series no such stack
    ├── SpecError              (ValueError)         a patch specification is wrong
    ├── StitchError            (ValueError)         a tile is missing, repeated or foreign
    ├── SourceError            (OSError)            an image cannot be read
    │   ├── SourceNotFoundError (FileNotFoundError) there is no image at that place
    │   ├── SeveralImagesError                      a file has several images, and none is chosen
    │   └── SourceChangedError                      an image changed on disk while it was read
    ├── SinkError              (OSError)            an output cannot be written
    │   └── OutputExistsError  (FileExistsError)    the output is there already, and stays as it is
    ├── ModelError             (RuntimeError)       a model cannot be loaded, or failed on a tile
    │   ├── ModelNotFoundError (FileNotFoundError)  there is no model at that place
    │   └── ModelOutputError   (ValueError)         a model ran and returned something unusable
    ├── TransformError         (RuntimeError)       a transform of the user's failed on a patch
    ├── ForkedProcessError     (RuntimeError)       a forked child uses what stayed in its parent
    ├── SeriesError            (RuntimeError)       some images of a series failed, the others are done
    └── MissingExtraError      (ImportError)        an optional dependency is not installed

Code that catches the built-in keeps working; code that wants to know whether the trouble is Patchloom's catches
`PatchloomError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_LISTED = 50
"""Images that a message lists."""


class PatchloomError(Exception):
    """Anything that Patchloom raises on purpose."""


class AxesError(PatchloomError, ValueError):
    """An axes string is not legal, or does not fit the image it is said of."""


class ArgumentError(PatchloomError, ValueError):
    """An argument has a value that is not allowed; the message names both, and what is allowed."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument is of another type than it must be."""


class GeometryError(ArgumentError):
    """A patch size, overlap or shape that makes no sense; the message has the axis and both numbers."""


class NotIntegerError(GeometryError, ArgumentTypeError):
    """A size or an index that is not a whole number."""


class PatchIndexError(PatchloomError, IndexError):
    """A plan has no patch of that number, or a series no image stack of that number."""


class SpecError(PatchloomError, ValueError):
    """A patch specification that lacks a field, or that points outside the series it belongs to."""


class StitchError(PatchloomError, ValueError):
    """The tiles given do not make up the image: one is missing, repeated or foreign."""


class SourceError(PatchloomError, OSError):
    """An image source that cannot be opened or read."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is no image at the place named."""


class SeveralImagesError(SourceError):
    """A file has several images, and none is chosen; `images` lists them, each by the name that it is opened by."""

    def __init__(self, message: str, images: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.images = dict(images or {})

    @classmethod
    def of(cls, source: object, images: Mapping[str, str], *, called: str = "images") -> SeveralImagesError:
        """Make the error for a file.

        Parameters
        ----------
        source : str or Path
            The file.
        images : mapping of str to str
            For the name of each image what it is.
        called : str
            The format's word for images.

        Examples
        --------
        >>> raise SeveralImagesError.of("a.tif", {"a.tif@0": "YX 20 × 30", "a.tif@1": "YX 400 × 500"})
        Traceback (most recent call last):
            ...
        patchloom.errors.SeveralImagesError: a.tif has 2 images: choose one of a.tif@0 (YX 20 × 30), a.tif@1 (YX 400 × 500)
        """
        listed = [f"{name} ({described})" for name, described in list(images.items())[:_LISTED]]
        more = f", and {len(images) - _LISTED} more" if len(images) > _LISTED else ""
        return cls(f"{source} has {len(images)} {called}: choose one of {', '.join(listed)}{more}", images)


class SourceChangedError(SourceError):
    """An image changed on disk while it was read, so its old and new pixels would be mixed."""


class SinkError(PatchloomError, OSError):
    """An output that cannot be written at the place named."""


class OutputExistsError(SinkError, FileExistsError):
    """The output exists already. It was not touched."""


class ModelError(PatchloomError, RuntimeError):
    """A model that cannot be loaded, or that failed; the message names the tile it failed on."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """There is no model at the place named."""


class ModelOutputError(ModelError, ValueError):
    """A model ran, and what it returned cannot be stitched."""


class TransformError(PatchloomError, RuntimeError):
    """A transform of the user's failed, or returned no patch; the message names the patch."""


class ForkedProcessError(PatchloomError, RuntimeError):
    """A process was forked, and the child cannot use what stayed in the parent: TensorStore's threads, or a loader's."""


class SeriesError(PatchloomError, RuntimeError):
    """Some images of a series failed; the others are done, and stand in `results` beside `None` for those that failed.

    The errors of the single images are listed in the message.
    """

    def __init__(self, message: str, results: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.results = list(results)


class MissingExtraError(PatchloomError, ImportError):
    """An optional dependency is not installed; the message says which extra brings it."""
