"""Export of a network as a package of bioimage.io, with everything that a prediction needs to know."""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require
from patchloom.argument_checks import file_path, flag, instance, instances, shown
from patchloom.errors import ArgumentTypeError, ModelError, OutputExistsError
from patchloom.image_stacks import ArrayStack, ImageStack, as_planes
from patchloom.local_paths import normalize_path
from patchloom.prediction.api import PredictionPlan, plan
from patchloom.prediction.model_check import run_whole
from patchloom.prediction.models.bioimageio.bioimageio_model import BioimageioModel
from patchloom.prediction.models.bioimageio.package import is_package
from patchloom.prediction.models.bioimageio.writing import (
    SizeRule,
    check_channels,
    describe_input,
    describe_output,
    describe_statistic,
    file_entry,
    save_tensor,
    write_weights,
)
from patchloom.prediction.models.expected_outputs import Tolerance
from patchloom.prediction.models.load import load_model
from patchloom.prediction.models.model import Model, ModelDescription, describe, size_rule
from patchloom.prediction.models.outputs import OutputSpec
from patchloom.prediction.models.prepare import prepare_model
from patchloom.prediction.normalization.methods import NormalizationMethod, parse_method

_LARGEST_TEST = {2: 256, 3: 64}
"""Size of the test tensors along each axis, if the network accepts any."""

_TILE = {2: 128, 3: 32}
_SPEC_DTYPES = ["float32", "float64", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "bool"]


def export_bioimageio(
    path: str | PathLike[str],
    model: Model | str | PathLike[str],
    example: NDArray[Any],
    *,
    axes: str,
    plan: PredictionPlan | None = None,
    normalize: str | NormalizationMethod | None = None,
    overlaps: int | Sequence[int] | None = None,
    name: str | None = None,
    description: str = "",
    authors: Sequence[str] = (),
    license: str = "CC-BY-4.0",  # noqa: A002  # the word of the format
    cite: Sequence[str] = (),
    channel_names: Sequence[str] = (),
    out_channel_names: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a network as a package of bioimage.io, of format 0.5.

    The package contains the weights, the sizes and channels that the network accepts, the overlap as `halo`, scale and margin, the
    normalization, and a test image with the outputs for it. It is validated by bioimageio.spec, opened again, and must return
    the same before anything appears at `path`.

    Parameters
    ----------
    path : path
        A folder that does not exist yet, or a `.zip` file.
    model : OnnxModel, TorchModel, torch.nn.Module or path
        The network: a loaded `.onnx` file, or its path; or a network of PyTorch, which is written as TorchScript. One that is not
        TorchScript is traced.
    example : array
        An image that the network is made for. Its middle becomes the test image.
    axes : str
        Axes of `example`, letters of `SCZYX`.
    plan : PredictionPlan, optional
        A plan whose normalization, tile size and overlap are written, instead of those of the arguments and of the model.
    normalize : MeanStd, Percentiles or str, optional
        How images are normalized; see `predict`. An image of bioimage.io is one sample, so it is measured for each sample. If None,
        what the model declares.
    overlaps : int or sequence of int, optional
        Voxels that neighboring tiles share; half of it, without the margin, is the halo. If None, what the model declares, else a
        quarter of the tile.
    name : str, optional
        Name of the model: letters, digits, spaces and `_+-()`, at least 5. If None, the name of the path,
        with `model` added to a short one.
    description : str
        A sentence about it.
    authors : sequence of str
        Names of the authors.
    license : str
        Identifier of the license, as SPDX defines it.
    cite : sequence of str
        What users cite: a DOI, or a text with a DOI at its end.
    channel_names, out_channel_names : sequence of str
        Names of the channels of the image and of the first output. If empty, what the model declares, else they are numbered.
    overwrite : bool
        Whether a package that exists is replaced.

    Returns
    -------
    Path
        The package.

    Raises
    ------
    ArgumentError
        If an argument has a value that is not allowed, or the example does not fit the network.
    OutputExistsError
        If the path exists, and `overwrite` is false, or it is not a package.
    ModelError
        If the network cannot be written, the description is not valid, or the package does not return what the network returns.
    MissingExtraError
        If bioimageio.spec is not installed.
    """
    place = Path(normalize_path(file_path("path", path))).absolute()
    _check_place(place, overwrite=flag("overwrite", overwrite))
    title = _title(place.stem) if name is None else instance("name", name, str)
    sentence = instance("description", description, str) or f"{title}, exported by Patchloom"
    texts = {"name": title, "description": sentence, "license": instance("license", license, str)}
    people = [{"name": author} for author in instances("authors", authors, str, "a sequence of names")]
    known = load_model(Path(model), device="cpu") if isinstance(model, (str, PathLike)) else prepare_model(model)
    facts = _Facts.of(known, example, axes, given=plan, normalize=normalize, overlaps=overlaps)
    with tempfile.TemporaryDirectory(prefix="patchloom-") as temporary:
        folder = Path(temporary) / "package"
        folder.mkdir()
        tensors = _write_tensors(folder, known, facts, channel_names, out_channel_names)
        (folder / "README.md").write_text(_README.format(**texts))
        content = {
            "type": "model",
            "format_version": require(
                "bioimageio.spec.model.v0_5", extra="bioimageio"
            ).ModelDescr.implemented_format_version,
            **texts,
            "name": re.sub(r"[^\w+\-() ]", "_", texts["name"], flags=re.ASCII),
            "authors": people,
            "cite": [_citation(text) for text in instances("cite", cite, str, "a sequence of texts")],
            "documentation": file_entry(folder / "README.md"),
            **tensors,
        }
        _validate(folder, content)
        _check_same(folder, facts)
        return _publish(folder, place)


def _title(stem: str) -> str:
    """Return a name of at least the 5 characters that the format needs."""
    return stem if len(stem) >= 5 else f"{stem} model"


_README = """# {name}

{description}

License: {license}.

## Validation

`patchloom check-model` predicts the test image of this package, whole and in tiles, and compares the results.
"""


class _Facts(NamedTuple):
    """What is known of a network before it is written."""

    image: NDArray[Any]
    """The test image, `1C(Z)YX`."""
    expected: Mapping[str, NDArray[Any]]
    """The outputs of the network for it."""
    method: NormalizationMethod | None
    rules: tuple[SizeRule, ...]
    overlaps: tuple[int, ...]
    outputs: tuple[OutputSpec, ...]
    description: ModelDescription

    @classmethod
    def of(
        cls,
        model: Model,
        example: Any,
        axes: str,
        *,
        given: PredictionPlan | None,
        normalize: str | NormalizationMethod | None,
        overlaps: int | Sequence[int] | None,
    ) -> _Facts:
        """Plan the example and run the network on its middle."""
        described = describe(model)
        if not isinstance(example, np.ndarray):
            raise ArgumentTypeError(f"example is {shown(example)}: it must be a NumPy array")
        if given is not None:
            instance("plan", given, PredictionPlan, "pl.plan makes one")
            size: tuple[int, ...] | None
            method, size = _method(given.request.normalize), given.layout.patch_size
            overlaps = _overlaps(given)
        else:
            method = _method(described.normalize if normalize is None else normalize)
            size = _default_size(described, instance("axes", axes, str))
            overlaps = _least_overlaps(described) if overlaps is None else overlaps
        planned = plan(
            example, model=model, axes=axes, normalize=method, patch_size=size, overlaps=overlaps, measure=True
        )
        found_overlaps = _overlaps(planned)
        multiples = [rule.origin_multiple for rule in planned.tiling.rules]
        rules = _size_rules(described, found_overlaps, multiples)
        image = _test_image(example, axes, rules)
        expected = run_whole(model, image, method)
        return cls(image, expected, method, rules, found_overlaps, planned.layout.outputs(0), described)


def _overlaps(planned: PredictionPlan) -> tuple[int, ...]:
    return tuple(
        2 * lost + rule.overlap for lost, rule in zip(planned.layout.margin, planned.tiling.rules, strict=True)
    )


def _least_overlaps(described: ModelDescription) -> tuple[int, ...] | None:
    """Return the overlap that a declared halo needs, if no overlap is declared."""
    if described.halo is None or described.overlaps is not None:
        return described.overlaps
    return tuple(2 * voxels for voxels in described.halo)


def _default_size(described: ModelDescription, axes: str) -> tuple[int, ...] | None:
    declares = (described.patch_size, described.preferred_patch_size, size_rule(described))
    if any(declared is not None for declared in declares):
        return None
    n_dims = described.n_dims or (3 if "Z" in axes else 2)
    return (_TILE[n_dims],) * n_dims


def _method(normalize: Any) -> NormalizationMethod | None:
    """Return a method as a package measures it: for each sample, with an eps."""
    if normalize is None:
        return None
    if not isinstance(normalize, (str, NormalizationMethod)):
        raise ArgumentTypeError(
            f"normalize is {shown(normalize)}: a package measures each image, so give MeanStd() or Percentiles(1, 99.8)"
        )
    method = parse_method("normalize", normalize)
    by_channel = method.per in {"channel", "sample_channel"}
    return replace(method, per="sample_channel" if by_channel else "sample", eps=method.eps or 1e-6)


def _size_rules(described: ModelDescription, overlaps: Sequence[int], multiples: Sequence[int]) -> tuple[SizeRule, ...]:
    if described.patch_size is not None:
        return tuple(SizeRule(size, 0) for size in described.patch_size)
    known = size_rule(described)
    if known is None:
        known = tuple((multiple * -(-max(16, 1) // multiple), multiple) for multiple in multiples)
    # Of the smallest tile, something must be left without the overlap.
    return tuple(
        SizeRule(least + -(-max(0, shared + shared % 2 + step - least) // step) * step, step)
        for (least, step), shared in zip(known, overlaps, strict=True)
    )


def _test_image(example: NDArray[Any], axes: str, rules: Sequence[SizeRule]) -> NDArray[Any]:
    """Return the middle of an image, of a size that the network accepts; a smaller image is extended by its mirror image."""
    stack: ImageStack = ArrayStack(example, axes)
    if len(rules) == 2:
        stack = as_planes(stack)
    n_samples, _, *sides = stack.data_shape
    sizes = [
        rule.least + max(0, min(side, _LARGEST_TEST[len(rules)]) - rule.least) // rule.step * rule.step
        if rule.step
        else rule.least
        for side, rule in zip(sides, rules, strict=True)
    ]
    read = [min(size, side) for size, side in zip(sizes, sides, strict=True)]
    starts = tuple((side - part) // 2 for side, part in zip(sides, read, strict=True))
    patch = np.asarray(stack.extract_patch(n_samples // 2, None, coords=starts, patch_size=tuple(read)))
    missing = [(0, size - part) for size, part in zip(sizes, read, strict=True)]
    return np.pad(patch, [(0, 0), *missing], mode="symmetric")[np.newaxis]


def _write_tensors(
    folder: Path, model: Model, facts: _Facts, channel_names: Sequence[str], out_channel_names: Sequence[str]
) -> dict[str, Any]:
    """Write weights and test tensors, and describe inputs, outputs and weights."""
    batch = facts.image.astype(np.float32) if facts.method is not None else facts.image
    weights = write_weights(model, folder, batch)
    letters, described = weights.letters, facts.description
    given = instances("channel_names", channel_names, str, "a sequence of names")
    channels = check_channels("channel_names", given, facts.image.shape[1], "channel")
    dtype = facts.image.dtype.name if facts.image.dtype.name in _SPEC_DTYPES else "float32"
    source = {
        "id": "input",
        "axes": describe_input(letters, facts.rules, channels, described.pixel_size),
        "data": {"type": dtype},
        "preprocessing": _preprocessing(facts, letters, dtype),
        "test_tensor": save_tensor(facts.image, letters, folder / "test_input.npy"),
    }
    names = instances("out_channel_names", out_channel_names, str, "a sequence of names")
    outputs = []
    for index, spec in enumerate(facts.outputs):
        array = facts.expected[spec.name]
        known = (names or described.out_channel_names) if index == 0 else ()
        of_output = check_channels("out_channel_names", known, array.shape[1], "channel")
        tensor = save_tensor(array, letters, folder / f"test_output{index or ''}.npy")
        outputs.append(
            {
                "id": re.sub(r"\W", "_", f"output_{spec.name}".lower()) if spec.name else "output",
                "axes": describe_output(letters, spec, facts.overlaps, of_output, described.pixel_size),
                "data": {"type": array.dtype.name},
                "test_tensor": tensor,
            }
        )
    return {
        "inputs": [source],
        "outputs": outputs,
        "weights": {weights.format: dict(weights.entry)},
        "covers": [_write_cover(folder, facts)],
        "config": {"bioimageio": {"reproducibility_tolerance": [_tolerance(facts)]}},
    }


def _tolerance(facts: _Facts) -> dict[str, float]:
    """Return the tolerance of the test: the absolute one may be 1 % of the largest expected value."""
    largest = min(float(array.max()) for array in facts.expected.values())
    return {"absolute_tolerance": min(1e-3, max(0.0, largest / 200)), "relative_tolerance": 1e-3}


def _preprocessing(facts: _Facts, letters: str, dtype: str) -> list[dict[str, Any]]:
    """Return the steps of the package: a network gets float32 if images are normalized, else the dtype of the image."""
    statistic = describe_statistic(facts.method, letters)
    steps = [{"id": "ensure_dtype", "kwargs": {"dtype": dtype}}, *statistic]
    return [*steps, {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}] if statistic else steps


def _write_cover(folder: Path, facts: _Facts) -> dict[str, Any]:
    """Write a picture of the test image beside the first output."""
    imageio = require("imageio.v3", extra="bioimageio")
    panels = []
    for batch in (facts.image, next(iter(facts.expected.values()))):
        plane = batch[0, 0].astype(np.float64)
        plane = plane[len(plane) // 2] if plane.ndim == 3 else plane
        spread = float(np.ptp(plane)) or 1.0
        panels.append(((plane - plane.min()) / spread * 255).astype(np.uint8)[:256, :256])
    height = min(len(panel) for panel in panels)
    imageio.imwrite(folder / "cover.png", np.concatenate([panel[:height] for panel in panels], axis=1))
    return file_entry(folder / "cover.png")


def _citation(text: str) -> dict[str, str]:
    doi = re.search(r"10\.\d{4,9}/\S+$", text)
    if doi is None:
        raise ModelError(f"cite contains {shown(text)}: it must end with a DOI, such as 10.1038/s41592-018-0216-7")
    return {"text": text, "doi": doi[0]}


def _validate(folder: Path, content: Mapping[str, Any]) -> None:
    """Validate a description and all of its files by bioimageio.spec, and write it."""
    spec = require("bioimageio.spec", extra="bioimageio")
    utils = require("bioimageio.spec.utils", extra="bioimageio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # bioimageio.spec leaves files open
        context = spec.ValidationContext(root=folder, file_name="rdf.yaml", perform_io_checks=True, log_warnings=False)
        built = spec.build_description(content, context=context)
        if isinstance(built, spec.InvalidDescr):
            errors = [
                f"{'.'.join(map(str, entry.loc))}: {entry.msg}"
                for detail in built.validation_summary.details
                for entry in detail.errors
            ]
            raise ModelError(
                f"the package is not valid: {'; '.join(errors[:3])}: give other arguments for these entries"
            )
        del built
    utils.write_yaml(dict(content), folder / "rdf.yaml")


def _check_same(folder: Path, facts: _Facts) -> None:
    """Check that the package returns what the network returned."""
    package = BioimageioModel(folder)
    found = run_whole(package, facts.image, package.description.normalize)
    for array, (name, wanted) in zip(found.values(), facts.expected.items(), strict=True):
        difference = Tolerance().compare(name, array, wanted)
        if not difference.passed:
            raise ModelError(
                f"the package does not return what the network returns (they differ by {difference.largest:.3g}): export a network "
                "without options such as scale=, channel_order= or inputs="
            )


def _check_place(place: Path, *, overwrite: bool) -> None:
    if not place.exists():
        return
    if not overwrite:
        raise OutputExistsError(f"{place} exists: choose another path, or replace it with overwrite=True")
    if not is_package(place):
        raise OutputExistsError(f"{place} exists and is not a package of bioimage.io: choose another path")


def _publish(folder: Path, place: Path) -> Path:
    """Move a complete package to its place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        made = beside / place.name
        if place.suffix.lower() == ".zip":
            with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(folder.iterdir()):
                    archive.write(file, file.name)
        else:
            shutil.copytree(folder, made)
        if place.is_dir():
            place.rename(beside / "replaced")
        made.replace(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return place
