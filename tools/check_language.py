"""Find phrases, spellings and old names that Patchloom's language avoids: ``python tools/check_language.py [FILE or FOLDER …]``.

Phrases are searched for in prose only: docstrings, comments, string literals and Markdown, without their code. Spellings and
names are searched for everywhere; in `changes/` only in prose, as release notes may give an old name. Each line of the report
is ``file:line: "phrase": what to write instead``, and the exit status is 1 if there is one.
"""

import re
import sys
import tokenize
from collections.abc import Iterator
from io import StringIO
from itertools import accumulate
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SEARCHED = ("src", "examples", "benchmarks", "docs", "changes", "README.md", "CONTRIBUTING.md")

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("src/patchloom/image_stacks/metadata.py", "metre"): "Files contain this spelling, which is read as meter.",
}
"""Reasons for exceptions, by file (relative to the repository) and phrase (as reported)."""

# Patterns and what to write instead. Case does not count, a space is any white space, and a pattern matches whole words.
# If a pattern has a group, the group is what is reported.
PHRASES = {
    # "There is no …" is fine, and so is a comparison.
    r"(?!there )\S+ ((?:is|are|was|were|be) no)(?! longer| more| less| fewer| \w+er than)": "is not a …",
    r"(?:go|goes|going|gone|went) on": "resume, continue",
    r"where (?:(?:it is|they are) )?not given|where none (?:is|are) given": "if None, …",
    r"how many": "number of …",
    r"what (?:becomes|became) of|what there (?:is|are|was)|those that|what comes (?:out|back)": "name it: a subject, a verb",
    r"nobody|somebody|anybody|whoever": "name who: the caller, the reader; or no process, no function",
    r"say|says|said|saying": "contain, declare, describe, return, report: nothing speaks",
    r"tell|tells|telling|told": "return, distinguish, determine, inform: nothing speaks",
    r"silent": "does not declare …",
    r"makes? nothing": "cannot process",
    r"mend|mends|mended|mending": "fix",
    r"short of": "when … is short",
    r"(?:the|its|their|whose|own|block's|later|earlier) turns?": "name the block or the step: `block_idx`",
    r"handed over": "shared",
    r"lend|lends|lent|lending": "provide a buffer",
    r"lets? go(?: of)?|letting go": "release, close",
    r"work(?:s|ed|ing)? out": "compute",
    r"(?:write|writes|written|wrote|writing) down": "record",
    r"pass(?:es|ed|ing) over": "skip",
    r"what stands|stands? outside": "pixels outside the image, the padding",
}
SPELLINGS = {
    r"(?:binar|character|custom|equal|final|general|initial|local|material|maxim|memor|minim|normal|optim|organ|parallel|quant"
    r"|random|raster|real|recogn|regular|serial|special|standard|summar|symmetr|synchron|util|vector|visual)"
    r"is(?:e|ing|ation)": "-ize",
    r"(?:behavi|col|fav|flav|hon|lab|neighb|vap)our": "-or",
    r"(?:cent|fib|lit|met)re(?![a-z]{2})|centring": "-er",
    r"(?:label|model|level|signal|travel)l(?:ed|ing)": "one l",
    r"(?:analy|paraly)s(?:ed?\b|ing)": "-yze",
    r"grey": "gray, or pixel values",
    r"artefact|catalogue|licence|defence|judgement|programme(?![dr])|sceptic|whilst|amongst": "the American spelling",
    r"\b(?:burnt|learnt|spelt|spoilt)\b": "-ed",
}
NAMES = {
    r"OutputForm|output_form|learn_forms|_learned_forms|declared_forms|read_forms|assumed_form": "OutputSpec, infer_outputs, …",
    r"handed_over": "n_shared_axes",
    r"needs_no_model|emptiness": "is_skipped, skip_rules",
    r"claimed_output|ClaimedOutput": "OutputClaim, claim_output",
    r"OffersBuffer": "HasBuffer",
    r"leaving_behind": "isolate_failure",
    r"side_by_side|one_by_one|RunTogether|in_parts|WORTH_SHARING": "thread_runner, run_serially, Runner, split_range, …",
    r"reduce=|reductions|reduction_text": "postprocess=, postprocessing",
    r"Preparation|(?<=\.)preparation": "BackgroundIterator",
    r"source_identity|source_state|_stack_identity": "fingerprint",
    r"NotWholeError": "NotIntegerError",
    r"disarrange|arrange(?=\()": "to_canonical, from_canonical",
    r"thin_out_below": "downweight_below",
    r"FlipsAndTurns|flips_and_turns": "FlipRot90",
    r"ChunkPool|chunk_pool": "ChunkCache, chunk_cache",
    r"NamedFilter": "CustomFilter",
}


def _compiled(rules: dict[str, str], frame: str, flags: re.RegexFlag) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(frame % pattern.replace(" ", r"\s+"), flags), better) for pattern, better in rules.items()]


IN_PROSE = _compiled(PHRASES, r"(?<!\w)(?:%s)\b", re.IGNORECASE)
ANYWHERE = _compiled(SPELLINGS, r"\b\w*(?:%s)\w*", re.IGNORECASE) + _compiled(NAMES, r"\b(?:%s)", re.NOFLAG)

# From Python 3.12 on an f-string is several tokens; before, it is one STRING.
_FSTRING_TEXT = getattr(tokenize, "FSTRING_MIDDLE", None)
_FSTRING_QUOTES = {getattr(tokenize, name, None) for name in ("FSTRING_START", "FSTRING_END")}
_PROSE = {tokenize.COMMENT, tokenize.STRING, _FSTRING_TEXT, *_FSTRING_QUOTES}
_QUOTE = re.compile(r"(?P<prefix>\w*)(?P<quotes>\"\"\"|'''|\"|')")
_FIELD = re.compile(r"\{(?:[^{}]|\{[^{}]*\})*\}")
_CODE_IN_TEXT = re.compile(r"^\s*(?:>>>|\.\.\.) .*$|`(?:[^`\n\0]|\n(?!\s*\n))+`", re.MULTILINE)
_FENCED_CODE = re.compile(r"^\s*(```|~~~).*?^\s*\1", re.MULTILINE | re.DOTALL)


def _blanked(match: re.Match[str]) -> str:
    """Replace all but white space by a character that no rule matches, so that lines keep their numbers."""
    return re.sub(r"\S", "\0", match[0])


def _text_of(token: tokenize.TokenInfo, source: str) -> str:
    """Return the prose of a comment or string, as long as the token; its mark or quotes become spaces."""
    if token.type == tokenize.COMMENT:
        return source.replace("#", " ", 1)
    if token.type in _FSTRING_QUOTES:
        return re.sub(r"\S", " ", source)
    opening = _QUOTE.match(source) if token.type == tokenize.STRING else None
    if opening is None:
        return source
    n_quotes = len(opening["quotes"])
    text = source[opening.end() : -n_quotes]
    if "f" in opening["prefix"].lower():
        text = _FIELD.sub(_blanked, text)
    return " " * opening.end() + text + " " * n_quotes


def python_prose(source: str) -> str:
    """Return Python source with everything blanked but its docstrings, comments and string literals."""
    starts = [0, *accumulate(len(line) + 1 for line in source.split("\n"))]
    prose = list(re.sub(r"\S", "\0", source))
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type in _PROSE:
            begin, end = (starts[line - 1] + column for line, column in (token.start, token.end))
            prose[begin:end] = _text_of(token, source[begin:end])
    return _CODE_IN_TEXT.sub(_blanked, "".join(prose))


def markdown_prose(source: str) -> str:
    """Return Markdown with its code blanked."""
    return _CODE_IN_TEXT.sub(_blanked, _FENCED_CODE.sub(_blanked, source))


def findings(path: Path) -> Iterator[tuple[int, str, str]]:
    """Find what to change in a file: its line, the phrase, and what to write instead."""
    source = path.read_text(encoding="utf-8")
    prose = markdown_prose(source) if path.suffix == ".md" else python_prose(source)
    anywhere = prose if path.parent.name == "changes" else source
    for text, rules in (prose, IN_PROSE), (anywhere, ANYWHERE):
        for pattern, better in rules:
            for match in pattern.finditer(text):
                group = match.lastindex or 0
                yield text.count("\n", 0, match.start(group)) + 1, " ".join(match[group].split()), better


def files(places: list[Path]) -> Iterator[Path]:
    """List the Python and Markdown files among some files and folders."""
    for place in places:
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (path for path in found if path.suffix in {".py", ".pyi", ".md"})


def main(arguments: list[str]) -> int:
    """Report on the given files and folders, or on all that Patchloom's language is checked in; return the exit status."""
    n_findings = 0
    for path in files([Path(name).resolve() for name in arguments] or [ROOT / name for name in SEARCHED]):
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
        for line, phrase, better in sorted(findings(path)):
            if (name, phrase) not in EXCEPTIONS:
                n_findings += 1
                print(f'{name}:{line}: "{phrase}": {better}')
    return int(n_findings > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
