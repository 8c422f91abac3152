"""What a prediction will do: arithmetic on what was asked for and what was found out, before any of it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from patchloom.argument_checks import whole_number
from patchloom.errors import ArgumentError
from patchloom.patching import TiledPatching
from patchloom.prediction.planning.memory import MemoryUse, estimate_memory
from patchloom.prediction.planning.tile_layout import TileLayout, lay_out_tiles
from patchloom.prediction.postprocessing.steps import Postprocessing
from patchloom.prediction.request import PredictionRequest
from patchloom.prediction.skip_rules import SkipRule
from patchloom.prediction.survey import Survey
from patchloom.stitching.block_grid import BlockGrid, chosen_blocks
from patchloom.stitching.tile_schedule import TileSchedule

_FORMAT = 1
"""Version of plans as JSON."""


@dataclass(frozen=True, repr=False)
class Plan:
    """The tiles, blocks and memory use of a prediction, computed from its request and survey by `make_plan`.

    `PredictionPlan`, which `pl.plan` returns, can also be printed and run.
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

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Return the same plan as an instance of this class; nothing is computed again.

        Parameters
        ----------
        plan : Plan
            The plan.
        """
        same = object.__new__(cls)
        vars(same).update(vars(plan))
        return same

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

    def to_json(self) -> str:
        """Return the plan as JSON, of which `from_json` makes it again: in another process, or on another machine."""
        return json.dumps({"plan": _FORMAT, "request": self.request.to_dict(), **self.decisions()})

    @classmethod
    def from_json(cls, text: str, *, skip: SkipRule | None = None, postprocess: Postprocessing | None = None) -> Self:
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
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
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
    def from_decisions(cls, request: PredictionRequest, values: Mapping[str, Any]) -> Self:
        """Return the plan of a request of which `decisions` were taken.

        Raises
        ------
        LookupError, TypeError, ValueError, ArithmeticError
            If the values are something else.
        """
        layout = lay_out_tiles(request, Survey.from_dict(values["survey"]))
        tiling, steps = layout.tiling, [rule.step for rule in layout.tiling.rules]
        shapes = list(values["block_shapes"])
        if len(shapes) != len(layout.stacks):
            raise ValueError(f"there are blocks of {len(shapes)} images, of {len(layout.stacks)}")
        blocks = tuple(
            replace(
                chosen_blocks(
                    layout.predicted_shape(data_idx), steps, tiling.seams, block_shape, multiples=tiling.seam_multiple
                ),
                origin=layout.predicted_origin(data_idx),
            )
            for data_idx, block_shape in enumerate(shapes)
        )
        n_shared_axes = whole_number("n_shared_axes", values["n_shared_axes"], least=0, most=len(steps))
        plan = cls(layout, blocks, n_shared_axes)
        if plan.memory.total > layout.survey.memory_limit:
            raise ValueError(f"it needs {plan.memory.total} bytes of memory, of {layout.survey.memory_limit}")
        return plan
