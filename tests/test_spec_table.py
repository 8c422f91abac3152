"""Tables of specifications: the same as dictionaries, without loss, in memory and in files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import SpecError
from patchloom.spec_table import SpecTable

whole = st.integers(-(2**62), 2**62)


@st.composite
def spec_lists(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Lists of specifications of any one kind, in 2D or 3D."""
    spatial = st.tuples(*[whole] * draw(st.integers(2, 3)))
    fields = {"data_idx": whole, "sample_idx": whole, "coords": spatial, "patch_size": spatial}
    kind = draw(st.sampled_from(["patch", "tile", "uncorrelated"]))
    if kind == "tile":
        fields |= {"crop_coords": spatial, "crop_size": spatial, "stitch_coords": spatial, "total_tiles": whole}
    if kind == "uncorrelated":
        channels = draw(st.integers(1, 4))
        fields |= {"principal_channel": whole, "all_data_idx": st.tuples(*[whole] * channels)}
        fields |= {"all_sample_idx": st.tuples(*[whole] * channels), "all_coords": st.tuples(*[spatial] * channels)}
    return draw(st.lists(st.fixed_dictionaries(fields), min_size=1, max_size=5))


def kinds(value: Any) -> set[type]:
    """All types of numbers in nested tuples."""
    return set().union(*map(kinds, value)) if isinstance(value, tuple) else {type(value)}


@given(spec_lists())
def test_dictionaries_come_back_equal_and_plain(specs: list[dict[str, Any]]) -> None:
    table = SpecTable.from_specs(specs)  # type: ignore[arg-type]
    for rows in (table.to_specs(), [table[i] for i in range(len(table))], list(pickle.loads(pickle.dumps(table)))):
        assert rows == specs
        assert all(kinds(value) == {int} for row in rows for value in row.values())


@settings(deadline=None)
@given(specs=spec_lists(), suffix=st.sampled_from([".npz", ".jsonl"]))
def test_a_saved_table_is_the_table_loaded(
    tmp_path_factory: pytest.TempPathFactory, specs: list[Any], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("table") / f"specs{suffix}"
    table = SpecTable.from_specs(specs)
    assert SpecTable.load(table.save(path)) == table


@given(specs=spec_lists(), data=st.data())
def test_a_slice_of_the_table_is_the_slice_of_the_list(specs: list[Any], data: st.DataObject) -> None:
    table = SpecTable.from_specs(specs)
    cut = data.draw(st.slices(len(specs)))
    picked = data.draw(st.lists(st.integers(-len(specs), len(specs) - 1), max_size=4))
    assert table[cut].to_specs() == specs[cut]
    assert table[np.array(picked, dtype=int)].to_specs() == [specs[i] for i in picked]


def test_a_table_cannot_be_changed_behind_its_back() -> None:
    table = SpecTable.from_specs([{"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 8)}])
    with pytest.raises(ValueError, match="read-only"):
        table.columns["coords"][0] = 1
    with pytest.raises(IndexError):
        table[1]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "at least one"),
        ([{"coords": (0, 0)}], "are not the fields of any one kind"),
        (
            [
                {"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 8)},
                {"data_idx": 0, "sample_idx": 0, "coords": (0, 0, 0), "patch_size": (8, 8)},
            ],
            "differ in dimensions",
        ),
        (
            [
                {"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 8)},
                {"data_idx": 0, "sample_idx": 0, "coords": (0, 0)},
            ],
            "specification 1 has fields",
        ),
    ],
)
def test_specifications_of_different_kinds_do_not_make_a_table(specs: list[Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        SpecTable.from_specs(specs)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    table = SpecTable.from_specs([{"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 8)}])
    with pytest.raises(SpecError, match=r"ends in \.npz or \.jsonl"):
        table.save(tmp_path / "specs.csv")
    assert not list(tmp_path.iterdir())
