"""Values that an argument must refuse, by its kind: a whole number, a spatial tuple, a path, an axes string, …

A kind is a table of labels and makers; a value is made anew for every call, so that no call can spoil another's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Maker = Callable[[], Any]

HUGE = 10**30
LONG = "a" * 5000

STRANGERS: Mapping[str, Maker] = {
    "None": lambda: None,
    "True": lambda: True,
    "-1": lambda: -1,
    "3": lambda: 3,
    "1.5": lambda: 1.5,
    "nan": lambda: float("nan"),
    "complex": lambda: 1 + 2j,
    "text": lambda: "a text",
    "'3'": lambda: "3",
    "empty text": lambda: "",
    "bytes": lambda: b"YX",
    "[]": list,
    "{}": dict,
    "set": lambda: {3},
    "object": object,
    "class": lambda: int,
    "function": lambda: lambda *arguments: arguments,
    "array": lambda: np.array([1, 2]),
    "np.float64": lambda: np.float64(2.5),
    "date": lambda: np.datetime64("2026-01-01"),
}
"""Values of many types. The values that a kind allows are removed; an argument of that kind must refuse the rest."""


@dataclass(frozen=True)
class Kind:
    """A kind of argument, as the values that it must refuse."""

    name: str
    values: Mapping[str, Maker]

    def accepting(self, *labels: str, because: str) -> Kind:
        """Remove values that this argument accepts on purpose; the reason is for the reader."""
        assert because
        unknown = set(labels) - set(self.values)
        assert not unknown, f"{self.name} has no values {unknown}"
        return Kind(self.name, {label: make for label, make in self.values.items() if label not in labels})

    def refusing(self, **values: Maker) -> Kind:
        """Add values that this argument must refuse, by a label each."""
        return Kind(self.name, {**self.values, **values})

    def refusing_values(self, *values: Any) -> Kind:
        """Add immutable values, each under its own text."""
        return Kind(self.name, {**self.values, **{repr(value): always(value) for value in values}})


def optional(kind: Kind) -> Kind:
    """Give the kind of an argument that may be None."""
    return Kind(f"{kind.name}, optional", {label: make for label, make in kind.values.items() if label != "None"})


def always(value: Any) -> Maker:
    """Give a maker of an immutable value."""
    return lambda: value


def _strangers(*allowed: str) -> dict[str, Maker]:
    return {label: make for label, make in STRANGERS.items() if label not in allowed}


def whole(least: int = 0, *, huge: bool = True) -> Kind:
    """Give the kind of a whole number; `huge` if 10**30 is too large for it."""
    values = {**_strangers("3"), "inf": lambda: float("inf"), "numeric text": lambda: "1e3", "float": lambda: 3.0}
    if least < 0:
        del values["-1"]
    else:
        values[str(least - 1)] = always(least - 1)
    return Kind("whole number", {**values, **({"huge": always(HUGE)} if huge else {})})


def number(*, least: float | None = None, most: float | None = None, nan: bool = False, inf: bool = False) -> Kind:
    """Give the kind of a real number; NaN and infinity are refused unless the caller allows them."""
    values = _strangers("3", "1.5", "-1", "np.float64", *(["nan"] if nan else []))
    if not inf:
        values["inf"] = always(float("inf"))
    if least is not None:
        values |= {"too small": always(least - 1), "-inf": always(float("-inf"))}
    if most is not None:
        values |= {"too large": always(most + 1), "huge": always(HUGE)}
    return Kind("number", values)


SEED = Kind("seed", {**_strangers("3"), "huge": always(HUGE), "-inf": always(float("-inf")), "float": lambda: 7.0})
FLAG = Kind(
    "flag",
    {
        **_strangers("True"),
        "'no'": lambda: "no",
        "'False'": lambda: "False",
        "array of flags": lambda: np.array([True, False]),
    },
)


def tuple_of_whole(length: int, least: int, *, one: bool = False, huge: bool = True) -> Kind:
    """Give the kind of a tuple of whole numbers, of one length; `one` if a single number stands for all."""
    valid = [max(least, 8)] * length

    def with_last(value: Any) -> Maker:
        return lambda: [*valid[:-1], value]

    values = _strangers(*(["3"] if one else []), "array") | {
        "too short": lambda: valid[1:] if length > 1 else [],
        "too long": lambda: [*valid, valid[0], valid[0]],
        "too small": with_last(least - 1),
        "text inside": with_last("8"),
        "digits": lambda: "8" * length,
        "None inside": with_last(None),
        "True inside": with_last(True),
        "fraction inside": with_last(8.5),
        "float inside": with_last(8.0),
        "nan inside": with_last(float("nan")),
        "nested": with_last(tuple(valid)),
        "array of two axes": lambda: np.full((length, length), valid[0]),
        "array of fractions": lambda: np.full(length, 8.5),
        **({} if one else {"array without axes": lambda: np.array(8)}),
        "lots": lambda: range(max(least, 1), 10**6),
    }
    if huge:
        values["huge inside"] = with_last(HUGE)
    return Kind("tuple of whole numbers", values)


def numbers_of_choice(n_choices: int) -> Kind:
    """Give the kind of a non-empty sequence of whole numbers below a number, such as channels."""
    values = _strangers("array") | {
        "past the end": lambda: [n_choices],
        "negative": lambda: [-n_choices - 1],
        "huge inside": lambda: [HUGE],
        "fraction inside": lambda: [0.5],
        "float inside": lambda: [0.0],
        "text inside": lambda: ["0"],
        "digits": lambda: "00",
        "None inside": lambda: [None],
        "True inside": lambda: [True],
        "nested": lambda: [[0]],
    }
    return Kind("numbers of a choice", values)


def numbers(*, length: int, nan: bool = False) -> Kind:
    """Give the kind of a sequence of real numbers, of one length."""
    values = _strangers("array") | {
        "too short": lambda: [1.0] * (length - 1),
        "too long": lambda: [1.0] * (length + 1),
        "text inside": lambda: ["1"] * length,
        "None inside": lambda: [None] * length,
        "nested": lambda: [[1.0, 2.0], [3.0]],
        "complex inside": lambda: [1j] * length,
    }
    if not nan:
        values |= {"nan inside": lambda: [float("nan")] * length, "inf inside": lambda: [float("inf")] * length}
    return Kind("sequence of numbers", values)


def word(*choices: str) -> Kind:
    """Give the kind of a word out of a few."""
    values = _strangers() | {
        "another word": lambda: "nonsense",
        "other case": lambda: choices[0].upper() if choices[0].upper() != choices[0] else choices[0] + "a",
        "with a space": lambda: choices[0] + " ",
        "in a list": lambda: [choices[0]],
        "as bytes": choices[0].encode,
    }
    return Kind("word", values)


DTYPE = Kind(
    "dtype",
    {
        **_strangers("class"),
        "'foo'": lambda: "foo",
        "object dtype": lambda: object,
        "text dtype": lambda: "U5",
        "bytes dtype": lambda: "S3",
        "void": lambda: "V4",
        "old alias": lambda: "a",
        "time": lambda: "M8[s]",
        "duration": lambda: "m8[s]",
        "structure": lambda: [("a", "u1")],
        "shape": lambda: "3f4",
        "module": lambda: np,
        "other bracket": lambda: "u1]",
    },
)

AXES = Kind(
    "axes",
    {
        **_strangers("None"),
        "repeated": lambda: "YXX",
        "without Y": lambda: "CX",
        "unknown": lambda: "QYX",
        "full width": lambda: "\uff39\uff38",
        "sharp s": lambda: "\xdfYX",
        "dotless i": lambda: "YX\u0131",
        "blank between": lambda: "Y X",
        "many": lambda: "YX" * 50000,
        "too many axes": lambda: "STCZYX",
        "list of letters": lambda: ["Y", "X", "C", "Z"],
        "number inside": lambda: [3],
    },
)

_PATHS = {
    **_strangers("text", "'3'"),
    "NUL": lambda: "a\0b.npy",
    "long": lambda: f"{LONG}.npy",
    "bytes path": lambda: b"image.npy",
    "a list of letters": lambda: [["a"]],
    "the root": lambda: "/",
    "here": lambda: ".",
    "surrogate": lambda: "\ud800.npy",
}
SOURCE_PATH = Kind("path to read", {**_PATHS, "text": lambda: "nowhere.tif", "no folder": lambda: "no/such/image.npy"})
OUTPUT_PATH = Kind(
    "path to write",
    {
        **_PATHS,
        "text": lambda: "without ending",
        "unknown ending": lambda: "image.png",
        "no folder": lambda: "no/such/folder/image.npy",
        "ending alone": lambda: "",
        "long zarr": lambda: f"{LONG}.ome.zarr",
        "long tif": lambda: f"{LONG}.ome.tif",
        "NUL zarr": lambda: "a\0b.ome.zarr",
        "NUL tif": lambda: "a\0b.ome.tif",
        "surrogate zarr": lambda: "\ud800.ome.zarr",
    },
)

CALLABLE = Kind("function", {**_strangers("class", "function"), "list of functions": lambda: [int]})
TEXT = Kind("text", _strangers("text", "'3'"))


def instance(name: str, **others: Maker) -> Kind:
    """Give the kind of an object of a class of Patchloom."""
    return Kind(name, {**_strangers(), "class itself": lambda: Kind, **others})


def sequence_of(item: Kind, valid: Callable[[], Sequence[Any]], *, keep: int = 8) -> Kind:
    """Give the kind of a sequence: it must refuse other types, an empty sequence, and a wrong item among valid ones."""
    values: dict[str, Maker] = _strangers()
    return Kind(f"sequence of {item.name}", values | inside(dict(list(item.values.items())[:keep]), valid))


def inside(values: Mapping[str, Maker], valid: Callable[[], Sequence[Any]]) -> dict[str, Maker]:
    """Replace the last item of a valid sequence by each value."""
    return {f"{label} inside": _replacing_last(valid, make) for label, make in values.items()}


def _replacing_last(valid: Callable[[], Sequence[Any]], make: Maker) -> Maker:
    return lambda: [*list(valid())[:-1], make()]


ARRAY = Kind(
    "array",
    {
        **_strangers("array"),
        "without axes": lambda: np.array(3),
        "flat": lambda: np.zeros(5, np.uint8),
        "of nothing": lambda: np.zeros((0, 0, 0, 0), np.uint8),
        "of objects": lambda: np.full((1, 1, 64, 48), None),
        "of texts": lambda: np.full((1, 1, 64, 48), "a"),
        "of times": lambda: np.zeros((1, 1, 64, 48), "M8[s]"),
        "of records": lambda: np.zeros((1, 1, 64, 48), [("a", "u1")]),
        "ragged": lambda: [[1, 2], [3]],
        "seven axes": lambda: np.zeros((1,) * 7, np.uint8),
    },
)


OF_OTHER_DTYPES = ("of nothing", "of objects", "of texts", "of times", "of records")
"""The arrays whose axes are valid."""


def mapping(valid: Callable[[], Mapping[Any, Any]], *, keys: bool = True) -> Kind:
    """Give the kind of a mapping with certain keys."""
    values = _strangers("{}") | {
        "wrong values": lambda: dict.fromkeys(valid(), "a text"),
        "None as values": lambda: dict.fromkeys(valid()),
        "objects as values": lambda: dict.fromkeys(valid(), object()),
        "list of pairs": lambda: list(valid().items()),
    }
    if keys:
        values |= {
            "{}": dict,
            "wrong keys": lambda: {f"{key}_": value for key, value in valid().items()},
            "numbers as keys": lambda: dict(enumerate(valid().values())),
            "one too few": lambda: dict(list(valid().items())[1:]),
        }
    return Kind("mapping", values)


def slices(n_axes: int) -> Kind:
    """Give the kind of one slice for each axis."""
    inside = slice(0, 8)

    def with_last(value: Any) -> Maker:
        return lambda: (*(inside,) * (n_axes - 1), value)

    values = _strangers() | {
        "too short": lambda: (inside,) * (n_axes - 1),
        "too long": lambda: (inside,) * (n_axes + 1),
        "one slice": lambda: inside,
        "number inside": with_last(3),
        "None inside": with_last(None),
        "text inside": with_last("0:8"),
        "open": with_last(slice(None)),
        "texts in slice": with_last(slice("0", "8")),
        "fractions": with_last(slice(0.5, 8.5)),
        "nan": with_last(slice(float("nan"), 8)),
        "empty": with_last(slice(8, 8)),
        "backwards": with_last(slice(8, 0)),
        "stride": with_last(slice(0, 8, 2)),
        "negative": with_last(slice(-8, 8)),
        "past the end": with_last(slice(0, HUGE)),
        "flags": with_last(slice(False, True)),
    }
    return Kind("slices", values)
