"""The identity of a model: it contains all that the model computes with, and nothing that differs between processes."""

from __future__ import annotations

import collections
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from patchloom.prediction.models.augmented_model import AugmentedModel
from patchloom.prediction.models.ensemble_model import EnsembleModel
from patchloom.prediction.models.identity.model_identity import ModelIdentity, identify_model
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.models.onnx.onnx_files import external_files
from patchloom.prediction.models.onnx.onnx_model import OnnxModel


def differing(one: ModelIdentity, other: ModelIdentity) -> set[str]:
    names = one.parts.keys() | other.parts.keys()
    return {name for name in names if one.parts.get(name) != other.parts.get(name)}


def module(source: str, folder: Path, name: str = "net") -> types.ModuleType:
    """Import a module of the user's own, anew each time."""
    (folder / f"{name}.py").write_text(source)
    made = types.ModuleType(name)
    made.__file__ = str(folder / f"{name}.py")
    sys.modules[name] = made
    exec(compile(source, made.__file__, "exec"), made.__dict__)  # what importing does
    return made


@pytest.fixture(autouse=True)
def _no_modules_stay() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if "." not in name and not getattr(sys.modules[name], "__spec__", None):
            del sys.modules[name]


class Net:
    """A model with weights."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return batch * np.mean(self.weights)


class Slotted:
    __slots__ = ("weights",)

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return batch * np.mean(self.weights)

    def predict(self, batch: np.ndarray) -> np.ndarray:
        return batch + np.mean(self.weights)


def closure(weights: Any) -> Callable[..., Any]:
    def model(batch: np.ndarray) -> Any:
        return batch * np.mean(weights)

    return model


def decorated(weights: Any) -> Callable[..., Any]:
    @functools.wraps(closure)
    def wrapper(batch: np.ndarray) -> Any:
        return inner(batch)

    inner = closure(weights)
    return wrapper


def default(weights: Any) -> Callable[..., Any]:
    def model(batch: np.ndarray, weights: Any = weights) -> Any:
        return batch * np.mean(weights)

    return model


def keyword_default(weights: Any) -> Callable[..., Any]:
    def model(batch: np.ndarray, *, weights: Any = weights) -> Any:
        return batch * np.mean(weights)

    return model


def function_attribute(weights: Any) -> Callable[..., Any]:
    model = closure(0)
    model.weights = weights  # type: ignore[attr-defined]
    return model


def class_attribute(weights: Any) -> Callable[..., Any]:
    return type("WithClassAttribute", (Net,), {"shared": weights})(0)  # type: ignore[no-any-return]


class WithProperty(Net):
    @property
    def description(self) -> ModelDescription:
        return ModelDescription(n_dims=2)


WAYS: dict[str, Callable[[Any], Any]] = {
    "attribute": Net,
    "slot": Slotted,
    "closure": closure,
    "decorated": decorated,
    "default": default,
    "keyword default": keyword_default,
    "function attribute": function_attribute,
    "class attribute": class_attribute,
    "bound method": lambda weights: Slotted(weights).predict,
    "partial": lambda weights: functools.partial(np.multiply, weights),
    "partial of keywords": lambda weights: functools.partial(closure, weights=weights),
    "nested": lambda weights: Net({"layers": [Slotted(weights)]}),
    "described": WithProperty,
    "augmented": lambda weights: AugmentedModel(Net(weights)),
    "described and augmented": lambda weights: AugmentedModel(WithProperty(weights)),
    "ensemble": lambda weights: EnsembleModel([np.negative, Net(weights)]),
    "described in an ensemble": lambda weights: EnsembleModel([WithProperty(0), WithProperty(weights)]),
    "cached": lambda weights: functools.lru_cache(closure(weights)),
    "vectorized": lambda weights: np.vectorize(closure(weights)),
    "namespace": lambda weights: closure(types.SimpleNamespace(weights=weights)),
    "named tuple": lambda weights: closure(collections.namedtuple("Layers", "first")(weights)),  # noqa: PYI024
    "ordered": lambda weights: closure(collections.OrderedDict(layer=collections.deque([weights]))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3)[::-1]),
        (np.ones(3, "f4"), np.ones(3, "f8")),
        ({"scale": 2}, {"scale": 3}),
        ({"a", "b", "c"}, {"a", "b", "d"}),
        ("one", "other"),
        (Net(1.0), Net(1.5)),
    ],
    ids=["array", "dtype", "dict", "set", "text", "object"],
)
def test_weights(way: str, one: Any, other: Any) -> None:
    """Weights count wherever a model keeps them, and only if they differ."""
    make = WAYS[way]
    identity = identify_model(make(one))
    assert not identity.unknown
    assert identify_model(make(one)) == identity
    assert differing(identity, identify_model(make(other)))


class LeavesWeightsOut(Net):
    """Not pickled whole, as models that are sent to workers without their session."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class RebuiltEmpty(list[Any]):
    def __reduce__(self) -> Any:
        return RebuiltEmpty, ()


class Text(str):  # noqa: SLOT000
    """A text with attributes."""


def text_with_attribute(weights: Any) -> Text:
    text = Text("scale")
    text.weights = weights  # type: ignore[attr-defined]
    return text


def of_metaclass(weights: Any) -> Callable[..., Any]:
    kind = type("Scaling", (type,), {"weights": weights})
    return kind("Scaled", (Net,), {})(0)  # type: ignore[no-any-return]


def code_without_module(factor: int) -> Any:
    names: dict[str, Any] = {}
    exec(f"def model(batch): return batch * {factor}", names)
    return names["model"]


def class_without_module(factor: int) -> Any:
    names: dict[str, Any] = {}
    exec(f"class Model:\n    def __call__(self, batch): return batch * {factor}", names)
    return names["Model"]()


@pytest.mark.parametrize(
    ("make", "one", "other"),
    [
        (LeavesWeightsOut, 1, 2),
        (lambda item: closure(RebuiltEmpty([item])), 1, 2),
        (lambda item: closure(text_with_attribute(item)), 1, 2),
        (of_metaclass, 1, 2),
        (code_without_module, 2, 3),
        (class_without_module, 2, 3),
        (lambda mask: closure(np.ma.masked_array([1, 2], mask)), [True, False], [False, False]),
        (lambda places: closure(xr.DataArray([1, 2], {"x": places}, "x")), [0, 1], [0, 2]),
        (lambda keys: closure(dict.fromkeys(keys, abs)), ["blur", "sharpen"], ["sharpen", "blur"]),
        (lambda keys: closure(dict.fromkeys(keys, abs)), [1, 2], [2, 1]),
        (lambda keys: functools.partial(closure, **dict.fromkeys(keys, 1)), ["a", "b"], ["b", "a"]),
        (lambda pattern: closure(re.compile(pattern)), "a", "b"),
    ],
)
def test_hidden_state(make: Any, one: Any, other: Any) -> None:
    """State that pickling or the type of an object leaves out counts."""
    identity = identify_model(make(one))
    assert not identity.unknown
    assert identify_model(make(one)) == identity
    assert differing(identity, identify_model(make(other)))


def test_module_without_file() -> None:
    """A module without a file is reported."""
    settings = types.ModuleType("settings_made_at_run_time")
    assert "settings_made_at_run_time" in identify_model(closure(settings)).unknown[0]


def test_part_names() -> None:
    """The parts that differ are named."""
    assert differing(identify_model(closure(1)), identify_model(closure(2))) == {
        "closure variable 'weights' of 'model'"
    }
    assert differing(identify_model(Net(1)), identify_model(Net(2))) == {"attribute 'weights' of 'Net'"}
    nested = {"attribute 'weights' of ['first'] of attribute 'weights' of 'Net'"}
    assert differing(identify_model(Net({"first": Net(1)})), identify_model(Net({"first": Net(2)}))) == nested


MODULE = """
import numpy as np
import helpers

SCALE = {scale}

class Layer:
    bias = {bias}
    def __call__(self, batch):
        return batch {operator} self.bias

layer = Layer()

def unused(batch):
    return {unused}

def inner(batch):
    return [value {operator} SCALE for value in batch]

def model(batch):
    '''Run the model.'''
    return np.asarray(inner(layer(batch))) + helpers.shift(batch)
"""
PLAIN = {"scale": 2, "bias": 1, "operator": "*", "unused": 0}


@pytest.mark.parametrize("change", [{"scale": 3}, {"bias": 2}, {"operator": "+"}], ids=str)
def test_user_code(change: dict[str, Any], tmp_path: Path) -> None:
    """Code and globals count through functions and classes of the user."""
    module("def shift(batch): return 1", tmp_path, "helpers")
    before = identify_model(module(MODULE.format(**PLAIN), tmp_path).model)
    assert not before.unknown
    assert identify_model(module("# a note\n\n" + MODULE.format(**PLAIN), tmp_path).model) == before
    assert identify_model(module(MODULE.format(**PLAIN | {"unused": 7}), tmp_path).model) == before
    assert differing(before, identify_model(module(MODULE.format(**PLAIN | change), tmp_path).model))


def test_user_module(tmp_path: Path) -> None:
    """Of a module of the user, only the attributes that are used count."""
    module("W = 1\ndef shift(batch): return W", tmp_path, "helpers")
    before = identify_model(module(MODULE.format(**PLAIN), tmp_path).model)
    module("W = 2\ndef shift(batch): return W", tmp_path, "helpers")
    after = identify_model(module(MODULE.format(**PLAIN), tmp_path).model)
    assert differing(before, after) == {"global 'W' of helpers"}


def test_late_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that a function imports when it is called counts by its file."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "late_helpers.py").write_text("shift = 1")

    def model(batch: np.ndarray) -> Any:
        import late_helpers  # type: ignore[import-not-found]  # noqa: PLC0415  # what this is about

        return batch + late_helpers.shift

    before = identify_model(model)
    assert identify_model(model) == before
    (tmp_path / "late_helpers.py").write_text("shift = 2")
    assert differing(before, identify_model(model)) == {"imported module 'late_helpers' of 'model'"}


def test_reinstalled_package(
    tmp_path: Path,
) -> None:
    """A package that is installed again with the same version counts by its files."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    source = "__version__ = '1'\ndef model(batch): return batch * {factor}"
    identities = [
        identify_model(module(source.format(factor=factor), folder, "installed").model) for factor in (2, 2, 3)
    ]
    assert identities[0] == identities[1] != identities[2]


def test_named_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of weights that code or an attribute names counts by its bytes."""
    monkeypatch.chdir(tmp_path)

    def lazily(batch: np.ndarray) -> Any:
        return batch * np.load("weights.npy")

    models = [lazily, Net(tmp_path / "weights.npy"), Net(str(tmp_path / "weights.npy")), Net({"file": "weights.npy"})]
    np.save("weights.npy", np.ones(3))
    Path("calls.log").write_text("")
    before = [identify_model(model) for model in (*models, Net("calls.log"))]
    np.save("weights.npy", np.zeros(3))
    Path("calls.log").write_text("one")
    after = [identify_model(model) for model in (*models, Net("calls.log"))]
    assert [bool(differing(*pair)) for pair in zip(before, after, strict=True)] == [True, True, True, True, False]


DETERMINISM = """
import json, threading, sys
import numpy as np
from patchloom.prediction.models.identity.model_identity import identify_model
LISTED = ["red", "green", "blue", ("a", 1), frozenset({"x", "y"}), None, 2.5]
WORDS = set(LISTED)
class Net:
    names = {"one", "two", "three"}
    def __init__(self):
        self.lock = threading.RLock()
        self.me = self
        self.lookup = {word: [word] for word in LISTED}
        self.weights = np.arange(5)
    def __call__(self, batch):
        return batch if batch in {"p", "q", "r"} else helper(batch, self.weights)
def helper(batch, weights, default=object, function=lambda x: WORDS):
    return [batch for word in WORDS]
identity = identify_model(Net())
assert not identity.unknown, identity.unknown
print(json.dumps(dict(identity.parts)))
"""


def test_other_process(tmp_path: Path) -> None:
    """Another process with other hashes and addresses finds the same identity."""

    def found(seed: str) -> dict[str, str]:
        run = subprocess.run(
            [sys.executable, "-c", DETERMINISM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert run.returncode == 0, run.stderr
        return dict(json.loads(run.stdout))

    assert found("1") == found("2") == found("77")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
        | st.tuples(inner, inner)
        | st.builds(lambda item: np.array([repr(item)]), inner)
    ),
    max_leaves=12,
)


def shape_of(value: Any) -> Any:
    """Return what tells two values apart, in another way than the walk does."""
    if isinstance(value, dict):
        return "dict", [(repr((type(key).__name__, key)), shape_of(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [shape_of(item) for item in value]
    return type(value).__name__, repr(value)


@given(one=VALUES, other=VALUES)
def test_values(one: Any, other: Any) -> None:
    """The identities of two values are equal if and only if the values are."""
    same = repr(shape_of(one)) == repr(shape_of(other))
    assert (identify_model(closure(one)) == identify_model(closure(other))) == same


def test_unknown_parts() -> None:
    """Objects that cannot be inspected are reported with the name of their part."""

    def generator() -> Iterator[int]:
        yield 1

    for value, kind in [
        (generator(), "generator"),
        (sys.stderr.buffer, "BufferedWriter"),
        (memoryview(b"ab"), "memoryview"),
    ]:
        unknown = identify_model(Net(value)).unknown
        assert any("attribute 'weights' of 'Net' is a " in why and "cannot be inspected" in why for why in unknown), (
            kind
        )
    (why,) = identify_model(np.frompyfunc(abs, 1, 1)).unknown
    assert "ufunc" in why
    assert not identify_model(Net(threading.Lock())).unknown, "a lock computes nothing"


def test_raising_objects() -> None:
    """Objects that raise when they are inspected are reported."""

    class Hostile:
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise ZeroDivisionError

        def __getattribute__(self, name: str) -> Any:
            raise ZeroDivisionError

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            return batch

    assert identify_model(Hostile()).unknown


def test_bounds() -> None:
    """The number of objects and the depth are bounded."""
    endless: list[Any] = []
    inner = endless
    for _ in range(100_000):
        inner.append([])
        inner = inner[0]
    assert "nested too deeply" in identify_model(Net(endless)).unknown[0]
    wide = [[number] for number in range(200_000)]
    assert "consists of more objects" in identify_model(Net(wide)).unknown[0]
    many = identify_model(Net({str(number): number for number in range(5000)}))
    assert len(many.parts) <= 201
    assert differing(many, identify_model(Net({str(number): -number for number in range(5000)})))
    myself: list[Any] = []
    myself.append(myself)
    assert identify_model(Net(myself)) == identify_model(Net(myself))


def test_declared_identity() -> None:
    """State that a call changes counts, unless an identity is declared."""

    class Counting(Net):
        def __init__(self) -> None:
            super().__init__(2)
            self.calls = itertools.count()

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            next(self.calls)
            return batch

    class Declared(Counting):
        identity = "counting, version 3"

    class Describes(Counting):
        description = ModelDescription(identity="counting, version 3")

    for kind, changes in [(Counting, {"attribute 'calls' of 'Counting'"}), (Declared, set()), (Describes, set())]:
        model = kind()
        before = identify_model(model)
        model(np.zeros(1))
        assert differing(before, identify_model(model)) == changes


def save_network(path: Path, factor: float, *, external: bool) -> Path:
    shape = ["N", 1, "H", "W"]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.full((1, 1, 1, 1), factor, "float32"), "w")],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options: dict[str, Any] = (
        {"save_as_external_data": True, "location": f"{path.name}.data", "size_threshold": 0} if external else {}
    )
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    onnx.save(network, path, **options)
    return path


class Wrapper:
    """Passes on the description of the model inside, as people do."""

    def __init__(self, model: OnnxModel, gain: float = 1) -> None:
        self.model, self.gain = model, gain
        self.description = model.description

    def __call__(self, batch: np.ndarray) -> Any:
        return self.model(batch) * self.gain


@pytest.mark.parametrize("external", [True, False])
def test_onnx_weights(external: bool, tmp_path: Path) -> None:
    """An ONNX network counts by its file and its external weights, also inside wrappers."""
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"

    def models() -> list[Any]:
        model = OnnxModel(path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return [
            model,
            Wrapper(model),
            AugmentedModel(model),
            AugmentedModel(Wrapper(model)),
            closure(model),
            Net(session),
        ]

    save_network(path, 2, external=external)
    before = [identify_model(model) for model in models()]
    assert [identity.unknown for identity in before] == [()] * len(before)
    assert [identify_model(model) for model in models()] == before
    save_network(path, 3, external=external)
    assert [identify_model(model) == identity for model, identity in zip(models(), before, strict=True)] == [False] * 6
    model = OnnxModel(path)
    assert identify_model(Wrapper(model)) != identify_model(Wrapper(model, gain=2))


def test_loaded_weights(tmp_path: Path) -> None:
    """An ONNX network counts by the weights that it was loaded with."""
    pytest.importorskip("onnxruntime")
    model = OnnxModel(save_network(tmp_path / "net.onnx", 2, external=True))
    before = identify_model(model)
    save_network(tmp_path / "net.onnx", 3, external=True)
    assert identify_model(model) == before


def test_weights_outside(tmp_path: Path) -> None:
    """External weights outside the folder of the network are not read."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_bytes(b"1")
    (tmp_path / "inside" / "w").write_bytes(b"1")
    tensors = []
    for location in ("../secret", str(tmp_path / "secret"), "w", "missing", "x" * 9000):
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=location)
        tensors.append(tensor.SerializeToString())
    content = b"".join(tensors) + b"\x0a\x08location\x12" + b"\xff" * 5
    assert external_files(tmp_path / "inside" / "net.onnx", content) == [tmp_path / "inside" / "w"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torch_module() -> None:
    """Parameters and buffers of a torch module count."""
    torch = pytest.importorskip("torch")

    class Convolution(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(1, 1, 3, dtype=torch.bfloat16)
            self.register_buffer("scale", torch.ones(2), persistent=False)

        def forward(self, batch: Any) -> Any:
            return self.layer(batch) * self.scale[0]

    model = Convolution()
    before = identify_model(model)
    assert not before.unknown
    assert identify_model(model) == before
    with torch.no_grad():
        model.layer.bias += 1
    assert differing(before, identify_model(model)) == {"'bias' of 'layer' of 'Convolution'"}
    with torch.no_grad():
        model.layer.bias -= 1
        model.scale += 1
    assert "'scale' of 'Convolution'" in differing(before, identify_model(model))
    assert differing(identify_model(model), identify_model(model.train(False)))
    wrapped = closure(model)
    assert not identify_model(wrapped).unknown
    scripted = [torch.jit.trace(torch.nn.Conv2d(1, 1, 3), torch.ones(1, 1, 8, 8)) for _ in range(2)]
    assert differing(*map(identify_model, scripted))
    assert identify_model(scripted[0]) == identify_model(scripted[0])
    assert not identify_model(scripted[0]).unknown


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_torch_order() -> None:
    """Layers count in order, and tensors by their elements."""
    torch = pytest.importorskip("torch")

    def layers(names: str) -> Any:
        kinds = {"a": torch.nn.ReLU(), "b": torch.nn.Tanh()}
        return torch.nn.Sequential(collections.OrderedDict((name, kinds[name]) for name in names))

    def with_private(scale: Any) -> Any:
        model = torch.nn.Identity()
        model._graph_scale = scale
        return model

    wave = torch.tensor([1 + 1j, 2 - 1j])
    pairs = [
        (layers("ab"), layers("ba")),
        (with_private(np.ones(2)), with_private(np.zeros(2))),
        (with_private(0), with_private(None)),
        (closure(wave), closure(wave.conj())),
        (closure(wave.imag), closure(wave.conj().imag)),
        (
            closure(torch.quantize_per_tensor(wave.real, 0.1, 0, torch.qint8)),
            closure(torch.quantize_per_tensor(wave.real, 0.7, 0, torch.qint8)),
        ),
    ]
    for one, other in pairs:
        identities = [identify_model(one), identify_model(other)]
        assert not any(identity.unknown for identity in identities)
        assert differing(*identities)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_same_process() -> None:
    """A model that is made again in the same process has the same identity."""
    torch = pytest.importorskip("torch")

    def hooked() -> Any:
        model = torch.nn.Identity()
        model.register_forward_hook(twice)
        return torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(1, 1, bias=False)), model

    def twice(_module: Any, _given: Any, output: Any) -> Any:
        return 2 * output

    def compiled() -> Any:
        return torch.compile(lambda batch: batch * 2)

    for make in (hooked, compiled):
        torch.manual_seed(0)
        first = identify_model(closure(make()))
        torch.manual_seed(0)
        assert not first.unknown
        assert identify_model(closure(make())) == first


def test_no_import_of_torch() -> None:
    """Torch is not imported."""
    code = "import sys; from patchloom.prediction.models.identity.model_identity import identify_model as f; f(lambda b: b); f(f)\n"
    subprocess.run(
        [sys.executable, "-c", code + "assert 'torch' not in sys.modules and 'onnx' not in sys.modules"], check=True
    )
