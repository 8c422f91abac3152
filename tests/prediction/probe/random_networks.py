"""Random networks whose reach is known: U-Nets, in 2D and 3D, as modules of PyTorch and as ONNX, each with its analytic answer.

The answer is computed backwards on an endless axis: the interval of voxels that a layer needs for an interval of its output.
"""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, lcm, prod

import torch
from torch import nn

from patchloom.prediction.probe.torch_reach import SizeFacts

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Spec:
    """A random network; tuples of sizes have one number for each axis."""

    seed: int
    n_dims: int
    kernels: tuple[Sizes, ...]
    """Of the convolutions: one for each level down, the bottom, and one for each level up."""
    dilations: tuple[int, ...]
    factors: tuple[Sizes, ...]
    is_valid: bool
    down: str
    up: str
    head: str

    @property
    def depth(self) -> int:
        return len(self.factors)

    def __str__(self) -> str:
        return f"{self.seed}-{self.n_dims}d-depth{self.depth}-{'valid' if self.is_valid else 'same'}-{self.down}-{self.up}-{self.head}"


def draw(seed: int) -> Spec:
    """Draw a network."""
    chance = random.Random(seed)
    n_dims = 2 if chance.random() < 0.7 else 3
    depth = chance.choice([0, 1, 1, 2, 2, 3, 4] if n_dims == 2 else [0, 1, 1, 2])
    up = chance.choice(["nearest", "linear", "transposed", "wide"])
    choices = (2, 2, 2, 3) if up in ("nearest", "transposed") and depth < 3 else (2,)
    factors = []
    for _ in range(depth):
        factor = chance.choice(choices)
        flat = n_dims == 3 and chance.random() < 0.3 and up != "wide"
        factors.append((1, factor, factor) if flat else (factor,) * n_dims)
    kernels = []
    for _ in range(2 * depth + 1):
        size = chance.choice([1, 3, 3, 5])
        lopsided = chance.random() < 0.3
        kernels.append(tuple(chance.choice([1, 2, 3, 4]) if lopsided else size for _ in range(n_dims)))
    return Spec(
        seed,
        n_dims,
        tuple(kernels),
        tuple(chance.choice([1, 1, 1, 2]) for _ in kernels),
        tuple(factors),
        chance.random() < 0.25,
        chance.choice(["max", "mean", "stride"]),
        up,
        chance.choice(["same", "same", "same", "double", "half"]),
    )


class Network(nn.Module):
    """The network of a spec, with random weights."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        torch.manual_seed(spec.seed)
        self.spec = spec
        two = spec.n_dims == 2
        convolution, transposed = (nn.Conv2d, nn.ConvTranspose2d) if two else (nn.Conv3d, nn.ConvTranspose3d)
        widths = [3] * (spec.depth + 1)

        def block(index: int, width_in: int, width_out: int) -> nn.Module:
            kernel, dilation = spec.kernels[index], spec.dilations[index]
            room = [dilation * (size - 1) for size in kernel]
            pads = [side for total in reversed(room) for side in (total // 2, total - total // 2)]
            pad = (
                nn.Identity()
                if spec.is_valid
                else (nn.ZeroPad2d if two else nn.ConstantPad3d)(pads, *([] if two else [0.0]))
            )
            norm = (nn.BatchNorm2d if two else nn.BatchNorm3d)(width_out)
            return nn.Sequential(pad, convolution(width_in, width_out, kernel, dilation=dilation), norm, nn.ReLU())

        self.enter = nn.ModuleList(block(level, 1 if level == 0 else 3, 3) for level in range(spec.depth + 1))
        self.leave = nn.ModuleList(block(2 * spec.depth - level, 6, 3) for level in range(spec.depth))
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        mode = "bilinear" if two else "trilinear"
        for factor in spec.factors:
            self.downs.append(
                {
                    "max": nn.MaxPool2d if two else nn.MaxPool3d,
                    "mean": nn.AvgPool2d if two else nn.AvgPool3d,
                    "stride": lambda f: convolution(3, 3, f, stride=f),
                }[spec.down](factor)
            )
            self.ups.append(
                {
                    "nearest": lambda f: nn.Upsample(scale_factor=tuple(map(float, f)), mode="nearest"),
                    "linear": lambda f: nn.Upsample(scale_factor=tuple(map(float, f)), mode=mode, align_corners=False),
                    "transposed": lambda f: transposed(3, 3, f, stride=f),
                    "wide": lambda f: transposed(3, 3, [size + 2 for size in f], stride=f, padding=1),
                }[spec.up](factor)
            )
        self.head = {
            "same": nn.Identity(),
            "double": nn.Upsample(scale_factor=2.0, mode="nearest"),
            "half": (nn.AvgPool2d if two else nn.AvgPool3d)(2),
        }[spec.head]
        self.last = convolution(widths[0], 1, 1)

    def forward(self, image):
        skips = []
        for level, down in enumerate(self.downs):
            image = self.enter[level](image)
            skips.append(image)
            image = down(image)
        image = self.enter[-1](image)
        for level in reversed(range(self.spec.depth)):
            image = self.ups[level](image)
            skip = skips[level]
            if self.spec.is_valid:
                for axis in range(2, image.dim()):
                    start = (skip.shape[axis] - image.shape[axis]) // 2
                    skip = skip.narrow(axis, start, image.shape[axis])
            image = self.leave[level](torch.cat([skip, image], 1))
        return self.last(self.head(image))


def make_module(spec: Spec) -> nn.Module:
    """Return the network in evaluation mode, with statistics and weights that leave values alive."""
    module = Network(spec).eval()
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm2d, nn.BatchNorm3d)):
            part.running_mean.uniform_(-0.1, 0.1)
    return module


def export(module: nn.Module, spec: Spec) -> bytes:
    """Export to ONNX with free sizes."""
    file, size = io.BytesIO(), accepted_sizes(spec)
    names = {axis + 2: f"size{axis}" for axis in range(spec.n_dims)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(1, 1, *size),), file, dynamo=False, opset_version=17, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": names, "y": {axis: f"out{axis}" for axis in names}},
        )  # fmt: skip
    return file.getvalue()


@dataclass(frozen=True)
class _Layer:
    """A layer on one axis: the size of its output, and the input voxels that an interval of its output needs."""

    size: Callable[[int], int | None]
    needs: Callable[[int, int], tuple[int, int]]


def _after(
    inner: _Layer, grown: Callable[[int], int], first: Callable[[int], int], last: Callable[[int], int]
) -> _Layer:
    def size(n: int) -> int | None:
        before = inner.size(n)
        after = None if before is None else grown(before)
        return None if after is None or after < 1 else after

    return _Layer(size, lambda low, high: inner.needs(first(low), last(high)))


def _windows(inner: _Layer, kernel: int, stride: int = 1, dilation: int = 1, pads: tuple[int, int] = (0, 0)) -> _Layer:
    wide = dilation * (kernel - 1)
    return _after(
        inner,
        lambda n: (n + sum(pads) - wide - 1) // stride + 1 if n + sum(pads) > wide else 0,
        lambda low: low * stride - pads[0],
        lambda high: high * stride - pads[0] + wide,
    )


def _up(inner: _Layer, factor: int, kind: str) -> _Layer:
    if kind == "linear":
        return _after(
            inner,
            lambda n: n * factor,
            lambda low: floor(Fraction(2 * low + 1 - factor, 2 * factor)),
            lambda high: ceil(Fraction(2 * high + 1 - factor, 2 * factor)),
        )
    if kind == "wide":
        return _after(
            inner,
            lambda n: (n - 1) * factor + factor + 2 - 2,
            lambda low: ceil(Fraction(low + 1 - (factor + 1), factor)),
            lambda high: floor(Fraction(high + 1, factor)),
        )
    return _after(inner, lambda n: n * factor, lambda low: low // factor, lambda high: high // factor)


def _layers(spec: Spec, axis: int, size: int) -> _Layer | None:
    """Compose the layers along one axis, for an image of some size; None if the network does not accept it."""

    def block(inner: _Layer, index: int) -> _Layer:
        kernel, dilation = spec.kernels[index][axis], spec.dilations[index]
        total = 0 if spec.is_valid else dilation * (kernel - 1)
        return _windows(inner, kernel, 1, dilation, (total // 2, total - total // 2))

    layer: _Layer = _Layer(lambda n: n, lambda low, high: (low, high))
    skips = []
    for level in range(spec.depth):
        layer = block(layer, level)
        skips.append(layer)
        layer = _windows(layer, spec.factors[level][axis], spec.factors[level][axis])
    layer = block(layer, spec.depth)
    for level in reversed(range(spec.depth)):
        layer = _up(layer, spec.factors[level][axis], spec.up)
        here, there = layer.size(size), skips[level].size(size)
        if here is None or there is None or here > there or (here != there and not spec.is_valid):
            return None
        layer = block(_joined(layer, skips[level], (there - here) // 2), 2 * spec.depth - level)
    if spec.head == "double":
        layer = _up(layer, 2, "nearest")
    elif spec.head == "half":
        layer = _windows(layer, 2, 2)
    return None if layer.size(size) is None else layer


def _joined(one: _Layer, other: _Layer, start: int) -> _Layer:
    def needs(low: int, high: int) -> tuple[int, int]:
        (first, last), (begin, end) = one.needs(low, high), other.needs(low + start, high + start)
        return min(first, begin), max(last, end)

    return _Layer(one.size, needs)


@dataclass(frozen=True)
class Answer:
    """What is true along one axis."""

    before: int
    after: int
    stride: int
    scale: Fraction
    margin: Fraction


_HEADS = {"same": Fraction(1), "double": Fraction(2), "half": Fraction(1, 2)}


def answer(spec: Spec, axis: int) -> Answer:
    """Compute the reach along an axis, in an image of the sizes that the network uses as a whole."""
    stride = lcm(prod(factors[axis] for factors in spec.factors), 2 if spec.head == "half" else 1)
    scale = _HEADS[spec.head]
    margin, size = min(
        ((n - layer.size(n) / scale) / 2, n)
        for n in range(1000, 1000 + stride)
        if (layer := _layers(spec, axis, n)) is not None
    )
    layer = _layers(spec, axis, size)
    before, after = [], []
    for voxel in range(2 * int(stride * scale) + 1):
        low, high = layer.needs(voxel, voxel)
        before.append(floor(margin + voxel / scale) - low)
        after.append(high - (ceil(margin + (voxel + 1) / scale) - 1))
    return Answer(max(0, *before), max(0, *after), stride, scale, Fraction(margin))


def accepted_sizes(spec: Spec, least: int = 1) -> Sizes:
    """Return the smallest size along each axis that the network uses as a whole, not below some number."""
    sizes = []
    for axis in range(spec.n_dims):
        known = answer(spec, axis)
        sizes.append(
            next(
                n
                for n in range(least, 4000)
                if (layer := _layers(spec, axis, n)) is not None
                and (n - layer.size(n) / known.scale) / 2 == known.margin
            )
        )
    return tuple(sizes)


def size_facts(spec: Spec) -> list[SizeFacts]:
    """Return the sizes that the network accepts, along each axis."""
    answers = [answer(spec, axis) for axis in range(spec.n_dims)]
    return [
        SizeFacts(least, known.stride, known.stride, (known.scale,), (known.margin,))
        for least, known in zip(accepted_sizes(spec), answers, strict=True)
    ]
