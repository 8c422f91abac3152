"""Tables of specifications: the same as dictionaries, without loss, in memory and in files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchloom.errors import SpecError
from patchloom.specs.spec_table import SpecTable

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
        ([{"coords": (0, 0)}], "are not the fields of one kind"),
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


@settings(deadline=None)
@given(specs=spec_lists(), data=st.data())
def test_fields_that_differ_in_axes_or_channels_do_not_make_a_table(specs: list[Any], data: st.DataObject) -> None:
    spec = specs[0]
    several = [field for field, value in spec.items() if isinstance(value, tuple)]
    field = data.draw(st.sampled_from(several))
    n_wanted = 0 if len(spec[field]) == 1 else data.draw(st.integers(0, len(spec[field]) - 1))
    changed = {**spec, field: spec[field][:n_wanted]}
    with pytest.raises(SpecError, match="it must have"):
        SpecTable.from_specs([changed])  # type: ignore[list-item]
    with pytest.raises(SpecError, match="it must have"):
        SpecTable({name: np.array([value]) for name, value in changed.items()})


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    table = SpecTable.from_specs([{"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 8)}])
    with pytest.raises(SpecError, match=r"its ending must be \.npz or \.jsonl"):
        table.save(tmp_path / "specs.csv")
    assert not list(tmp_path.iterdir())


NOT_WHOLE = [
    1.9,
    2.0,
    float("nan"),
    float("inf"),
    True,
    "1",
    None,
    1j,
    np.float32(1.5),
    np.float64(2),
    np.bool_(True),
    b"1",
]
FIELDS: dict[str, Any] = {
    "data_idx": 0,
    "sample_idx": 0,
    "coords": (1, 2),
    "patch_size": (4, 4),
    "crop_coords": (0, 0),
    "crop_size": (4, 4),
    "stitch_coords": (1, 2),
    "total_tiles": 1,
    "principal_channel": 0,
    "all_data_idx": (0, 0),
    "all_sample_idx": (0, 0),
    "all_coords": ((1, 2), (3, 4)),
}
PATCH = ["data_idx", "sample_idx", "coords", "patch_size"]
TILE = [*PATCH, "crop_coords", "crop_size", "stitch_coords", "total_tiles"]
UNCORRELATED = [*PATCH, "principal_channel", "all_data_idx", "all_sample_idx", "all_coords"]
EVERY_FIELD = [(kind, field) for kind in (PATCH, TILE, UNCORRELATED) for field in kind]


def replaced_last(value: Any, number: Any) -> Any:
    """Put a number in the place of the last one of nested tuples."""
    return (*value[:-1], replaced_last(value[-1], number)) if isinstance(value, tuple) else number


@pytest.mark.parametrize("number", NOT_WHOLE, ids=repr)
def test_no_number_that_is_not_whole_gets_into_a_table(number: Any) -> None:
    for kind, field in EVERY_FIELD:
        spec: Any = {name: FIELDS[name] for name in kind}
        wrong = spec | {field: replaced_last(spec[field], number)}
        for rows in ([wrong], [spec, wrong]):
            with pytest.raises(SpecError, match=rf"{field}(\[1\])* of specification {len(rows) - 1}.*(\[1\])* is "):
                SpecTable.from_specs(rows)


@pytest.mark.parametrize("dtype", ["f4", "f8", "?", "U3", "O", "c8", "M8[s]"])
def test_columns_are_whole_numbers(dtype: str) -> None:
    for kind, field in EVERY_FIELD:
        columns = {name: np.array([FIELDS[name]] * 3) for name in kind}
        with pytest.raises(SpecError, match=f"column {field} is"):
            SpecTable(columns | {field: columns[field].astype(dtype)})


@given(specs=spec_lists(), kind=st.sampled_from([np.int64, np.asarray]))
def test_integers_of_any_make_become_plain(specs: list[Any], kind: Any) -> None:
    def made(value: Any) -> Any:
        return [made(item) for item in value] if isinstance(value, tuple) else kind(value)

    table = SpecTable.from_specs([{field: made(value) for field, value in spec.items()} for spec in specs])
    assert table.to_specs() == specs
    assert all(kinds(value) == {int} for row in table for value in row.values())
    assert SpecTable.from_specs([{field: np.array(value) for field, value in spec.items()} for spec in specs]) == table


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", "u4", ">i8", "u8"])
def test_columns_of_any_integers_are_taken(dtype: str) -> None:
    columns = {name: np.array([FIELDS[name]] * 3).astype(dtype) for name in UNCORRELATED}
    assert list(SpecTable(columns)) == [{name: FIELDS[name] for name in UNCORRELATED}] * 3


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_numbers_beyond_64_bits_are_refused(number: int) -> None:
    for kind, field in EVERY_FIELD:
        spec: Any = {name: FIELDS[name] for name in kind}
        with pytest.raises(SpecError, match=field):
            SpecTable.from_specs([spec | {field: replaced_last(spec[field], number)}])
    with pytest.raises(SpecError, match="below 2"):
        SpecTable({name: np.array([FIELDS[name]], np.uint64) for name in PATCH} | {"data_idx": np.array([2**63], "u8")})


@pytest.mark.parametrize("value", [5, "12", b"12", {1, 2}, {"y": 1}, ((1, 2),), None, [[1], [2, 3]], object()])
def test_what_is_not_coordinates_is_refused(value: Any) -> None:
    spec: Any = {name: FIELDS[name] for name in PATCH}
    with pytest.raises(SpecError, match="coords"):
        SpecTable.from_specs([spec | {"coords": value}])


@pytest.mark.parametrize("row", [None, 3, "spec", [("data_idx", 0)]])
def test_a_row_is_a_dictionary(row: Any) -> None:
    with pytest.raises(SpecError, match="it must be a dictionary"):
        SpecTable.from_specs([row])


DAMAGED = {
    "text.npz": b"x",
    "empty.npz": b"",
    "zip.npz": b"PK\x05\x06" + bytes(18),
    "brace.jsonl": b"{",
    "list.jsonl": b"[1]\n",
    "nothing.jsonl": b"\n\n",
    "bytes.jsonl": b"\xff\xfe",
    "deep.jsonl": b"[" * 100_000,
    "number.jsonl": b"1" * 10_000,
    "null.jsonl": b"null",
    "fraction.jsonl": b'{"data_idx": 0.5, "sample_idx": 0, "coords": [0, 0], "patch_size": [8, 8]}',
    "huge.jsonl": b'{"data_idx": 1e400, "sample_idx": 0, "coords": [0, 0], "patch_size": [8, 8]}',
    "fields.jsonl": b'{"data_idx": 0}',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(SpecError, match=rf"{name} cannot be read as a table of specifications: "):
        SpecTable.load(tmp_path / name)


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    for name in ("folder.npz", "none.npz", "none.jsonl"):
        with pytest.raises(SpecError, match=rf"{name} cannot be read as a table of specifications: "):
            SpecTable.load(tmp_path / name)


@pytest.mark.parametrize(
    "columns",
    [
        {"data_idx": np.zeros(3)},
        {name: np.zeros(3) for name in PATCH},
        {name: np.array(5) for name in PATCH},
        {name: np.array(["a"]) for name in PATCH},
        {name: np.zeros((3, 2), "M8[s]") for name in PATCH},
    ],
)
def test_arrays_that_are_no_columns_are_refused(tmp_path: Path, columns: dict[str, Any]) -> None:
    np.savez(tmp_path / "a.npz", **columns)
    with pytest.raises(SpecError, match=r"a\.npz cannot be read"):
        SpecTable.load(tmp_path / "a.npz")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    np.savez(tmp_path / "a.npz", **{name: np.array([Trap()], object) for name in PATCH})
    with pytest.raises(SpecError, match=r"a\.npz cannot be read"):
        SpecTable.load(tmp_path / "a.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", [".npz", ".jsonl"])
@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_table_is_the_table_or_refused(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    """A text file has no checksum: there a digit may become another."""
    table = SpecTable.from_specs(
        [{"data_idx": 0, "sample_idx": n, "coords": (0, 8 * n), "patch_size": (16, 16)} for n in range(20)]
    )
    content = bytearray(table.save(tmp_path / f"a{suffix}").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / f"b{suffix}"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content))) or None])
    try:
        loaded = SpecTable.load(damaged)
    except SpecError:
        return
    if suffix == ".npz":
        assert loaded == table
