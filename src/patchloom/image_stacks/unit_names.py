"""Units as file formats abbreviate them, by the full names that OME-Zarr uses."""

from __future__ import annotations

_PREFIXES = {
    "Y": "yotta", "Z": "zetta", "E": "exa", "P": "peta", "T": "tera", "G": "giga", "M": "mega", "k": "kilo", "h": "hecto",
    "d": "deci", "c": "centi", "m": "milli", "u": "micro", "n": "nano", "p": "pico", "f": "femto", "a": "atto", "z": "zepto",
    "y": "yocto",
}  # fmt: skip
_MICRO_SIGNS = str.maketrans({"\u00b5": "u", "\u03bc": "u"})  # the sign, and the Greek letter that some programs write

_WORDS = {
    "angstrom": "angstrom", "ångström": "angstrom", "micron": "micrometer", "in": "inch", "inches": "inch", '"': "inch",
    "ft": "foot", "feet": "foot", "yd": "yard", "mi": "mile", "sec": "second", "secs": "second", "min": "minute",
    "h": "hour", "hr": "hour", "d": "day",
}  # fmt: skip
_NAMES = {"angstrom", "inch", "foot", "yard", "mile", "parsec", "minute", "hour", "day"}

_CONVERTED = {
    "thou": (0.001, "inch"), "li": (1 / 12, "inch"), "pt": (1 / 72, "inch"), "dam": (10.0, "meter"), "das": (10.0, "second"),
    "decameter": (10.0, "meter"), "ua": (1.495978707e11, "meter"), "ly": (9.4607304725808e15, "meter"),
}  # fmt: skip
"""Units of OME-XML that OME-Zarr has no name for, by one that it has."""

_SYMBOLS = {
    **{f"{prefix}{unit}": f"{name}{full}" for prefix, name in _PREFIXES.items() for unit, full in (("m", "meter"), ("s", "second"))},
    "m": "meter", "s": "second", "\u00c5": "angstrom", "\u212b": "angstrom", "\u00e5": "angstrom", "pc": "parsec",
}  # fmt: skip
_NAMES |= set(_SYMBOLS.values())


def unit_of(unit: str) -> tuple[str, float]:
    """Full name of a unit of length or time, and the number of such units that one of the given is.

    The name is empty for anything else, such as `"pixel"`. Symbols are told apart by their case: `Mm` is a megameter.

    Examples
    --------
    >>> unit_of("nm"), unit_of("Mm"), unit_of("dam"), unit_of("pixel")
    (('nanometer', 1.0), ('megameter', 1.0), ('meter', 10.0), ('', 1.0))
    """
    symbol = unit.strip().translate(_MICRO_SIGNS)
    word = symbol.lower().replace("metre", "meter")
    if symbol in _CONVERTED or word in _CONVERTED:
        factor, name = _CONVERTED.get(symbol) or _CONVERTED[word]
        return name, factor
    return _SYMBOLS.get(symbol) or _name_of_word(word), 1.0


def _name_of_word(word: str) -> str:
    """Find a name that is written out, in the singular or the plural, or a symbol in another case."""
    for candidate in (word, word.removesuffix("s")):
        name = _WORDS.get(candidate, candidate)
        if name in _NAMES:
            return name
    return _SYMBOLS.get(word, "")


def unit_name(unit: str) -> str:
    """Full name of a unit; empty for one that is no length and no time, such as `"pixel"`.

    Examples
    --------
    >>> unit_name("nm"), unit_name("Micrometer"), unit_name("pixel")
    ('nanometer', 'micrometer', '')
    """
    name, factor = unit_of(unit)
    return name if factor == 1 else ""
