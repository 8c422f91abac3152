"""Patchloom's errors: each is a subclass of `PatchloomError` and of a built-in exception.

::

    PatchloomError
    ├── AxesError              (ValueError)         an axes string is invalid, or does not fit the image
    ├── ArgumentError          (ValueError)         an argument has a value that is not allowed
    │   ├── ArgumentTypeError  (TypeError)          an argument has the wrong type
    │   └── GeometryError      (ValueError)         a size, overlap or shape is not possible
    │       └── NotIntegerError  (TypeError)          a size or index is a float or a bool
    ├── PatchIndexError        (IndexError)         there is no patch or image stack of this index
    ├── SpecError              (ValueError)         a patch specification is invalid
    ├── StitchError            (ValueError)         a tile is missing, repeated or of another image
    ├── SourceError            (OSError)            an image cannot be read
    │   ├── SourceNotFoundError (FileNotFoundError) there is no image at this path
    │   ├── SeveralImagesError                      a file has several images, and none was selected
    │   └── SourceChangedError                      an image changed on disk during the run
    ├── SinkError              (OSError)            an output cannot be written
    │   └── OutputExistsError  (FileExistsError)    the output exists already, and is not changed
    ├── ModelError             (RuntimeError)       a model cannot be loaded, or failed on a tile
    │   ├── ModelNotFoundError (FileNotFoundError)  there is no model at this path
    │   └── ModelOutputError   (ValueError)         a model returned something that cannot be stitched
    ├── TransformError         (RuntimeError)       a user's transform failed on a patch
    ├── ForkedProcessError     (RuntimeError)       a forked child uses threads of its parent
    ├── SeriesError            (RuntimeError)       some images of a series failed
    ├── StoppedError           (RuntimeError)       a run was stopped by its caller
    └── MissingExtraError      (ImportError)        an optional dependency is not installed

Code that catches the built-in keeps working. To catch only Patchloom's errors, catch `PatchloomError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_LISTED = 50
"""Number of images that a message lists."""


class PatchloomError(Exception):
    """Base class of all errors that Patchloom raises on purpose."""


class AxesError(PatchloomError, ValueError):
    """An axes string is invalid, or does not fit the image."""


class ArgumentError(PatchloomError, ValueError):
    """An argument has a value that is not allowed; the message contains the argument, its value and the allowed values."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument has the wrong type."""


class GeometryError(ArgumentError):
    """A patch size, overlap or shape is not possible; the message contains the axis and both numbers."""


class NotIntegerError(GeometryError, ArgumentTypeError):
    """A size or an index is not a whole number."""


class PatchIndexError(PatchloomError, IndexError):
    """A patching has no patch of this index, or a series no image stack of this index."""


class SpecError(PatchloomError, ValueError):
    """A patch specification lacks a field, or points outside its series."""


class StitchError(PatchloomError, ValueError):
    """The tiles do not make up the image: one is missing, repeated or of another image."""


class SourceError(PatchloomError, OSError):
    """An image source cannot be opened or read."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is no image at this path or URL."""


class SeveralImagesError(SourceError):
    """A file has several images, and none was selected; `images` maps the name that opens each to its description."""

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
            Description of each image by its name.
        called : str
            The format's term for images, in the plural.

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
    """An image changed on disk during the run, so its old and new pixels would be mixed."""


class SinkError(PatchloomError, OSError):
    """An output cannot be written."""


class OutputExistsError(SinkError, FileExistsError):
    """The output exists already; it was not changed."""


class ModelError(PatchloomError, RuntimeError):
    """A model cannot be loaded, or failed on a tile, which the message names."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """There is no model at this path."""


class ModelOutputError(ModelError, ValueError):
    """A model returned something that cannot be stitched."""


class TransformError(PatchloomError, RuntimeError):
    """A user's transform failed, or did not return a patch; the message names the patch."""


class ForkedProcessError(PatchloomError, RuntimeError):
    """A forked child cannot use the threads of its parent, of TensorStore or of a loader."""


class SeriesError(PatchloomError, RuntimeError):
    """Some images of a series failed; `results` has the outputs of the others, and `None` for each failed image.

    The message lists the error of each failed image.
    """

    def __init__(self, message: str, results: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.results = list(results)


class StoppedError(PatchloomError, RuntimeError):
    """A run ended because its caller stopped it; the message contains the number of blocks that are kept.

    This is not a failure: the same call resumes the run. It is not a `KeyboardInterrupt`, so that a program that stops a run in
    one of its threads does not end itself.
    """


class MissingExtraError(PatchloomError, ImportError):
    """An optional dependency is not installed; the message names the extra that installs it."""
