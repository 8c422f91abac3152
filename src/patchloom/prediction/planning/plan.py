"""What a prediction will do: arithmetic on what was asked for and what was found out, before any of it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchloom.errors import ArgumentError
from patchloom.image_stacks import Source
from patchloom.patching import TiledPatching
from patchloom.prediction.models.model import Model
from patchloom.prediction.planning.memory import MemoryUse, estimate_memory
from patchloom.prediction.planning.summary import describe_briefly, describe_plan, summarize_plan
from patchloom.prediction.planning.tile_layout import TileLayout, lay_out_tiles
from patchloom.prediction.postprocessing.steps import Postprocessing
from patchloom.prediction.request import PredictionRequest, RunOptions
from patchloom.prediction.skip_rules import SkipRule
from patchloom.prediction.survey import Survey
from patchloom.sinks import OmeZarr
from patchloom.stitching.block_grid import BlockGrid
from patchloom.stitching.tile_schedule import TileSchedule

_FORMAT = 1
"""Of plans as JSON."""


@dataclass(frozen=True, repr=False)
class PredictionPlan:
    """An immutable description of a prediction run: its tiles, blocks, memory use and settings. Made by `plan`.

    It contains facts about images, not images: it pickles and goes to JSON in a few kilobytes, and runs in another process.

    Examples
    --------
    >>> import numpy as np
    >>> import patchloom as pl
    >>> image = np.arange(8000, dtype=np.uint16).reshape(100, 80)
    >>> prepared = pl.plan(image, axes="YX", patch_size=64, overlaps=16)
    >>> prepared
    PredictionPlan(4 tiles of 64 × 64 in 1 block, 1 image, ...)
    >>> again = pl.PredictionPlan.from_json(prepared.to_json())
    >>> again == prepared, bool((again.run(lambda batch: batch, sources=image, progress=False) == image).all())
    (True, True)
    """

    layout: TileLayout
    """Its tiles."""

    blocks: tuple[BlockGrid, ...]
    """The blocks of each image, in voxels of the input."""

    n_shared_axes: int
    """Number of axes, from the innermost, along which a tile of two blocks is computed once; see `TileSchedule`."""

    schedules: tuple[TileSchedule, ...] = field(init=False, compare=False)
    """The order of work on each image."""

    memory: MemoryUse = field(init=False, compare=False)
    """What the run takes at its peak, the model's own needs not included."""

    def __post_init__(self) -> None:
        is_blended = self.request.blend is not None
        schedules = tuple(
            TileSchedule(self.tiling, data_idx, grid, self.n_shared_axes, whole_tiles=is_blended)
            for data_idx, grid in enumerate(self.blocks)
        )
        object.__setattr__(self, "schedules", schedules)
        object.__setattr__(self, "memory", estimate_memory(self.layout, self.blocks, schedules))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the rest is computed from."""
        return type(self), (self.layout, self.blocks, self.n_shared_axes)

    @property
    def request(self) -> PredictionRequest:
        """What was asked for."""
        return self.layout.request

    @property
    def survey(self) -> Survey:
        """What was found out before: facts about images and model."""
        return self.layout.survey

    @property
    def tiling(self) -> TiledPatching:
        """The tiles of the whole series, without the margin that the model's output does not cover."""
        return self.layout.tiling

    @property
    def n_tiles(self) -> int:
        """Number of tiles of the series."""
        return len(self.tiling)

    @property
    def n_tiles_computed(self) -> int:
        """Number of tiles that go through the model: one that two blocks share may be computed for each."""
        return sum(schedule.n_computed for schedule in self.schedules)

    @property
    def n_blocks(self) -> int:
        """Number of blocks of the series."""
        return sum(map(len, self.blocks))

    def summary(self) -> dict[str, Any]:
        """Return all that the plan will do as plain values that go to JSON.

        Examples
        --------
        >>> import numpy as np
        >>> import patchloom as pl
        >>> summary = pl.plan(np.zeros((100, 80), np.uint8), axes="YX", patch_size=64).summary()
        >>> summary["tiles"], summary["blocks"], summary["sources"][0]["shape"]
        (4, 1, [100, 80])
        """
        return summarize_plan(self)

    def to_json(self) -> str:
        """Return the plan as JSON, of which `from_json` makes it again: in another process, or on another machine."""
        return json.dumps({"plan": _FORMAT, "request": self.request.to_dict(), **self.decisions()})

    @classmethod
    def from_json(
        cls, text: str, *, skip: SkipRule | None = None, postprocess: Postprocessing | None = None
    ) -> PredictionPlan:
        """Return the plan that `to_json` was made of.

        Parameters
        ----------
        text : str
            What `to_json` returned.
        skip : SkipRule, optional
            The rule of the plan; needed if it has one other than `SkipDark`.
        postprocess : Postprocessing, optional
            The postprocessing of the plan; needed if it has one of your own.

        Raises
        ------
        ArgumentError
            If the text is not a plan, or its rule or postprocessing is needed and not given.
        """
        try:
            values = json.loads(text)
            if values.pop("plan") == _FORMAT:
                request = PredictionRequest.from_dict(values["request"], skip=skip, postprocess=postprocess)
                return cls.from_decisions(request, values)
        except ArgumentError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ArgumentError(f"text is not a plan ({error!r}): give what to_json returned") from error
        raise ArgumentError("text is a plan of another version of Patchloom: plan again")

    def decisions(self) -> dict[str, Any]:
        """Return all of the plan but the request, as plain values that go to JSON."""
        return {
            "survey": self.survey.to_dict(),
            "block_shapes": [list(grid.block_shape) for grid in self.blocks],
            "n_shared_axes": self.n_shared_axes,
        }

    @classmethod
    def from_decisions(cls, request: PredictionRequest, values: Mapping[str, Any]) -> PredictionPlan:
        """Return the plan of a request of which `decisions` were taken.

        Raises
        ------
        LookupError, TypeError, ValueError
            If the values are something else.
        """
        layout = lay_out_tiles(request, Survey.from_dict(values["survey"]))
        blocks = tuple(
            BlockGrid(shape[0], shape[2:], tuple(block_shape))
            for shape, block_shape in zip(layout.tiling.data_shapes, values["block_shapes"], strict=True)
        )
        return cls(layout, blocks, values["n_shared_axes"])

    def run(
        self,
        model: Model,
        output: str | Path | OmeZarr | None = None,
        *,
        sources: Source | Sequence[Source] | None = None,
        overwrite: bool = False,
        resume_anyway: bool = False,
        keep_going: bool = False,
        progress: bool = True,
        report: Callable[[Sequence[Any]], None] | None = None,
    ) -> Any:
        """Run the plan.

        What the plan does not contain is found out first: images are measured if they are to be normalized, and the outputs
        of the model are inferred.

        Parameters
        ----------
        model : callable
            The model that the plan was made for; see `predict`.
        output, overwrite, resume_anyway, keep_going, progress, report
            As in `predict`.
        sources : path, URL, array, ImageStack or sequence of these, optional
            The images that the plan was made for. Needed if they are not files, such as arrays in memory. If None, the files
            are opened again.

        Returns
        -------
        array or Path, or list of these
            As `predict`.

        Raises
        ------
        SourceNotFoundError
            If an image is not a file, and is not given.
        SourceChangedError
            If an image is another one than when the plan was made.
        ArgumentError, SourceError, SinkError, ModelError, SeriesError
            As `predict`.
        """
        from patchloom.prediction.run import run_planned  # noqa: PLC0415  # which imports plans

        options = RunOptions.parse(
            output=output,
            overwrite=overwrite,
            resume_anyway=resume_anyway,
            keep_going=keep_going,
            progress=progress,
            report=report,
        )
        return run_planned(self, options, model, sources)

    def __repr__(self) -> str:
        return f"PredictionPlan({describe_briefly(self)})"

    def __str__(self) -> str:
        return describe_plan(self)
