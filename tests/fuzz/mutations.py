"""Damage to files: each mutation is a function of bytes and a generator of random numbers, and of nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from archives import hostile_contents, packed

Mutation = Callable[[bytes, np.random.Generator], bytes]

_INTEGERS = [0, 1, 2, 3, 7, 8, 16, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
_WORDS = [
    "0", "1", "-1", "2", "1.5", "1000000000", "1" + "0" * 30, "-0.0", "1e400", "1e-320", "NaN", "Infinity", "null", "true",
    "", " ", "x", "red", "../x", "/etc/hosts", "http://127.0.0.1:9/x", "µm", "\u0000", "\U0001f52c", "[]", "{}", "[1]",
    "&a;", "<", "%", "'", '"', "a" * 5000,
]  # fmt: skip
_JSON_VALUES = [
    None, True, False, 0, 1, -1, 2, 1.5, 10**9, 10**30, 1e308, float("nan"), float("inf"), "", "x", "../x", "1", "µm",
    [], {}, [[]], [1], [0, 0], [None], ["x"], {"x": 1}, "a" * 5000,
]  # fmt: skip
_TOKEN = re.compile(rb"[A-Za-z0-9_.:+-]+|[^\sA-Za-z0-9]")
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]{4,}")


@dataclass(frozen=True)
class Seed:
    """A sound image, from which damaged ones are made.

    Parameters
    ----------
    name : str
        Name of the seed in reports.
    files : mapping of str to bytes
        Its files by their paths within a folder.
    main : str
        Path of the file or folder that is opened; empty for the folder itself.
    is_hostile : bool
        Whether mutants also contain what is made to harm, in archives and files.
    """

    name: str
    files: Mapping[str, bytes]
    main: str = ""
    is_hostile: bool = False


def damaged(seeds: Sequence[Seed], seed: int, index: int) -> Seed:
    """Return one of the seeds with one to four mutations, a function of `seed` and `index` alone.

    Parameters
    ----------
    seeds : sequence of Seed
        Sound images.
    seed, index : int
        Number of the campaign, and of the mutant in it.
    """
    rng = np.random.default_rng([seed, index])
    chosen = seeds[rng.integers(len(seeds))]
    files = dict(chosen.files)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 4]))):
        name = str(rng.choice(sorted(files)))
        if len(files) > 1 and rng.random() < 0.03:
            del files[name]
            continue
        mutations = _mutations_of(files[name])
        other = seeds[rng.integers(len(seeds))]
        if rng.random() < 0.05:
            files[name] = _spliced(files[name], other.files[str(rng.choice(sorted(other.files)))], rng)
        else:
            files[name] = mutations[rng.integers(len(mutations))](files[name], rng)
    if chosen.is_hostile:
        files = _with_harm(files, rng)
    return Seed(chosen.name, files, chosen.main)


def _with_harm(files: Mapping[str, bytes], rng: np.random.Generator) -> dict[str, bytes]:
    """Return files of which one may be replaced by what is made to harm, with archives packed and damaged."""
    changed = dict(files)
    if rng.random() < 0.1:
        contents = hostile_contents()
        changed[str(rng.choice(sorted(changed)))] = contents[rng.integers(len(contents))]
    result = packed(changed, rng)
    if rng.random() < 0.2:
        name = str(rng.choice(sorted(result)))
        result[name] = _BINARY[rng.integers(len(_BINARY))](result[name], rng)
    return result


def _mutations_of(content: bytes) -> Sequence[Mutation]:
    if content.lstrip()[:1] in {b"{", b"["}:
        return (*_BINARY, *_TEXTUAL, *_JSON)
    return (*_BINARY, *_TEXTUAL) if len(_TEXT.findall(content)) else _BINARY


def _flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for position in rng.integers(0, max(8 * len(changed), 1), rng.integers(1, 9)) if changed else ():
        changed[position // 8] ^= 1 << (position % 8)
    return bytes(changed)


def _change_integer(content: bytes, rng: np.random.Generator) -> bytes:
    """Put another number where one of 1, 2, 4 or 8 bytes may stand, mostly where aligned to 2."""
    width = int(rng.choice([1, 2, 2, 4, 4, 4, 8]))
    if len(content) < width:
        return content
    position = int(rng.integers(0, len(content) - width + 1))
    position -= position % 2 if rng.random() < 0.8 else 0
    order = str(rng.choice(["little", "little", "big"]))
    old = int.from_bytes(content[position : position + width], order)  # type: ignore[arg-type]
    new = [old + 1, old - 1, 2 * old, old // 2, -old, old << 8, *_INTEGERS][rng.integers(6 + len(_INTEGERS))]
    put = (new % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    return content[:position] + put + content[position + width :]


def _truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(0, len(content) + 1)]


def _drop_range(content: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _range(content, rng)
    return content[:start] + content[stop:]


def _repeat_range(content: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _range(content, rng)
    return content[:stop] + content[start:stop] * int(rng.integers(1, 4)) + content[stop:]


def _fill_range(content: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _range(content, rng)
    return content[:start] + bytes([int(rng.choice([0, 255]))]) * (stop - start) + content[stop:]


def _move_range(content: bytes, rng: np.random.Generator) -> bytes:
    """Copy a part over another of the same length, so that all else stays where it is."""
    start, stop = _range(content, rng)
    there = int(rng.integers(0, len(content) - (stop - start) + 1))
    return content[:there] + content[start:stop] + content[there + stop - start :]


def _range(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(0, len(content) + 1))
    return start, min(start + int(rng.choice([1, 2, 4, 12, 64, 500])), len(content))


def _spliced(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    cut = rng.integers(0, len(content) + 1)
    return content[:cut] + other[min(cut, len(other)) if rng.random() < 0.5 else rng.integers(0, len(other) + 1) :]


def _replace_token(content: bytes, rng: np.random.Generator) -> bytes:
    tokens = _tokens(content)
    if not tokens:
        return content
    start, stop = tokens[rng.integers(len(tokens))]
    word = _WORDS[rng.integers(len(_WORDS))].encode()
    if rng.random() < 0.5:
        word = word[: stop - start].ljust(stop - start)  # the length of the text stays
    return content[:start] + word + content[stop:]


def _swap_tokens(content: bytes, rng: np.random.Generator) -> bytes:
    tokens = _tokens(content)
    if len(tokens) < 2:
        return content
    first, second = sorted(rng.choice(len(tokens), 2, replace=False).tolist())
    (a, b), (c, d) = tokens[first], tokens[second]
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _drop_token(content: bytes, rng: np.random.Generator) -> bytes:
    tokens = _tokens(content)
    if not tokens:
        return content
    start, stop = tokens[rng.integers(len(tokens))]
    return content[:start] + content[stop:]


def _tokens(content: bytes) -> list[tuple[int, int]]:
    """Find words, numbers and marks in the readable parts of a file."""
    return [match.span() for text in _TEXT.finditer(content) for match in _TOKEN.finditer(content, *text.span())]


def _change_json(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace, remove or repeat one value anywhere in a document."""
    try:
        document = json.loads(content)
    except ValueError:
        return content
    places = list(_places(document))
    if not places:
        return content
    parent, key = places[rng.integers(len(places))]
    match int(rng.integers(4)):
        case 0:
            del parent[key]
        case 1:
            other, at = places[rng.integers(len(places))]
            parent[key] = json.loads(json.dumps(other[at])) if _is_in(other, at) else None
        case _:
            parent[key] = _JSON_VALUES[rng.integers(len(_JSON_VALUES))]
    return json.dumps(document).encode()


def _places(node: Any) -> Any:
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in entries:
        yield node, key
        yield from _places(child)


def _is_in(parent: Any, key: Any) -> bool:
    return key in parent if isinstance(parent, dict) else key < len(parent)


_BINARY: tuple[Mutation, ...] = (
    _flip_bits, _change_integer, _change_integer, _change_integer, _truncate, _drop_range, _repeat_range, _fill_range,
    _move_range,
)  # fmt: skip
_TEXTUAL: tuple[Mutation, ...] = (_replace_token, _replace_token, _swap_tokens, _drop_token)
_JSON: tuple[Mutation, ...] = (_change_json,) * 8
