"""Networks of PyTorch as models."""

import collections
import copy
import dataclasses
import functools
import pickle
from typing import NamedTuple

import numpy as np
import pytest

import patchloom as pl
from patchloom.prediction.models.identity.model_identity import identify_model
from patchloom.prediction.models.pytorch.torch_model import TorchModel
from patchloom.tensors.deferred_checks import deferred_checks

torch = pytest.importorskip("torch")


@pytest.fixture
def network():
    """A network with dropout and batch norm, left in training mode."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5), torch.nn.Conv2d(4, 2, 1)
    )


def test_module(network):
    """A network is given as it is: tiles put together equal the network run on the whole image, in evaluation mode."""
    image = np.random.default_rng(0).integers(0, 4000, (70, 91), np.uint16)
    network.eval()
    with torch.no_grad():
        whole = network(torch.from_numpy(image.astype(np.float32))[None, None])[0].numpy()
    network.train()

    result = pl.predict(network, image, axes="YX", patch_size=32, overlaps=4, progress=False)

    np.testing.assert_allclose(result, whole, rtol=1e-4, atol=1e-2)


def test_mode_restored(network):
    """The modes and the statistics of a network do not change, also if only a part of it is in training mode."""
    network[2].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    pl.predict(network, np.ones((40, 40), np.float32), axes="YX", patch_size=32, progress=False)

    assert [part.training for part in network.modules()] == [True, True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_mode_restored_after_error(network):
    """The mode is restored if the network fails."""
    with pytest.raises(pl.ModelError):
        pl.predict(network, np.ones((3, 40, 40), np.float32), axes="CYX", patch_size=32, progress=False)
    assert network.training


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision(network, precision):
    """Outputs of a lower precision are float32, and near those of full precision."""
    network.eval()
    image = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    exact, rough = (
        pl.predict(network, image, axes="YX", patch_size=32, precision=chosen, progress=False)
        for chosen in ("float32", precision)
    )
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, exact)
    np.testing.assert_allclose(rough, exact, atol=0.05)


def test_missing_device(network):
    """A device that the machine does not have is refused, with those that it has."""
    with pytest.raises(pl.ArgumentError, match=r"'cuda:97'.*cpu"):
        pl.predict(network, np.ones((40, 40)), axes="YX", patch_size=32, device="cuda:97", progress=False)


def test_description(network):
    """What is known of a network is used by the plan."""
    model = TorchModel(network, pl.ModelDescription(size_step=(16, 16), overlaps=(2, 2)))
    planned = pl.plan(np.zeros((100, 2000), np.float32), model=model, axes="YX")
    assert planned.layout.patch_size == (112, 512)
    with pytest.raises(pl.GeometryError, match=r"patch_size is 40 along Y.*32 or 48"):
        pl.plan(np.zeros((100, 100), np.float32), model=model, axes="YX", patch_size=40)


def test_declared_normalization(network):
    """A normalization that the model declares is the default, and `"none"` leaves gray values as they are."""
    image = np.random.default_rng(0).normal(50, 9, (40, 40)).astype(np.float32)
    model = TorchModel(network, pl.ModelDescription(normalize="mean_std"))

    def run(model, normalize):
        return pl.predict(model, image, axes="YX", patch_size=32, normalize=normalize, progress=False)

    assert np.array_equal(run(model, None), run(network, "mean_std"))
    assert np.array_equal(run(model, "none"), run(network, None))


def conv(n_dims=2, n_in=1, n_out=2, **options):
    """A convolution that keeps the size."""
    torch.manual_seed(1)
    return getattr(torch.nn, f"Conv{n_dims}d")(n_in, n_out, 3, padding=1, **options)


def whole(module, image):
    """The network run on a whole image `C(Z)YX`, by PyTorch alone."""
    with torch.no_grad():
        return module(torch.from_numpy(np.ascontiguousarray(image)).to(next(module.parameters()).dtype)[None])[0]


class Returns(torch.nn.Module):
    """A network that returns what a function makes of the output of a convolution."""

    def __init__(self, make):
        super().__init__()
        self.layer = conv()
        self.make = make

    def forward(self, batch):
        return self.make(self.layer(batch))


@dataclasses.dataclass
class Fields:
    logits: object
    hidden: object


class Named(NamedTuple):
    mask: object
    flow: object


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda out: {"out": out, "aux": out}, ["out", "aux"]),
        (lambda out: collections.OrderedDict(out=out, loss=None), ["out"]),
        (lambda out: Fields(out, None), ["logits"]),
        (lambda out: Fields(out, [out, (out, out)]), ["logits", "hidden.0", "hidden.1.0", "hidden.1.1"]),
        (lambda out: Named(out, out), ["mask", "flow"]),
        (lambda out: [out, out[..., ::2, ::2]], ["0", "1"]),
    ],
)
def test_containers(make, names):
    """Tensors in mappings, sequences, named tuples and data classes are outputs by name."""
    result = pl.predict(Returns(make), np.ones((40, 40), np.float32), axes="YX", patch_size=32, progress=False)
    assert list(result) == names


def test_deep_supervision():
    """Outputs at several scales in a list are written at their own scale."""
    result = pl.predict(
        Returns(lambda out: [out, out[..., ::2, ::2], out[..., ::4, ::4]]),
        np.ones((64, 96), np.float32),
        axes="YX",
        patch_size=32,
        progress=False,
    )
    assert [result[name].shape for name in "012"] == [(2, 64, 96), (2, 32, 48), (2, 16, 24)]


def test_equal_names():
    """Outputs whose names are equal as text are refused."""
    with pytest.raises(pl.ModelError, match="two outputs named '1'"):
        TorchModel(Returns(lambda out: {1: out, "1": out}))(np.ones((1, 1, 8, 8), np.float32))


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_dtype_of_weights(name):
    """A batch is converted to the dtype of the weights; 16 bits become float32, which NumPy has."""
    module = conv().to(getattr(torch, name))
    image = np.random.default_rng(0).integers(0, 255, (1, 40, 40), np.uint16)
    result = pl.predict(module, image, axes="CYX", patch_size=32, overlaps=4, progress=False)
    assert result.dtype == (np.float64 if name == "float64" else np.float32)
    np.testing.assert_allclose(result, whole(module, image).to(torch.float64), rtol=0.02, atol=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, ">f4", np.float64, np.bool_])
def test_dtypes_of_images(dtype):
    """Images of any dtype are converted to that of the weights."""
    image = (np.random.default_rng(0).random((1, 32, 32)) * 200).astype(dtype)
    result = pl.predict(conv(), image, axes="CYX", patch_size=32, progress=False)
    np.testing.assert_allclose(result, whole(conv(), image.astype(np.float32)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("change", [lambda batch: batch[:, :, ::-1], lambda batch: np.broadcast_to(batch, batch.shape)])
def test_arrays_that_cannot_be_shared(change):
    """Negative strides and read-only arrays are copied, without a warning."""
    batch = np.random.default_rng(0).random((1, 1, 16, 16), np.float32)
    np.testing.assert_array_equal(TorchModel(conv())(change(batch)), TorchModel(conv())(change(batch).copy()))


def test_batch_is_shared():
    """A batch in the dtype of the network is not copied."""
    seen = []
    module = torch.nn.Identity()
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].data_ptr()))
    batch = np.zeros((2, 1, 8, 8), np.float32)
    TorchModel(module)(batch)
    assert seen == [batch.ctypes.data]


def test_too_large_for_half():
    """Values that float16 cannot represent are refused."""
    with pytest.raises(pl.ModelError, match=r"65535.*float16 ends at 65504"):
        TorchModel(conv().half())(np.full((1, 1, 8, 8), 65535, np.uint16))


def test_range_is_checked_later():
    """Whoever defers checks gets one for each batch that may be too large for float16."""
    model = TorchModel(conv().half())
    with deferred_checks() as checks:
        for name in ("uint8", "int16", "bool"):
            model(np.ones((1, 1, 8, 8), name))
        assert not checks
        model(np.full((1, 1, 8, 8), -70000, np.float32))
        model(np.full((1, 1, 8, 8), 65504, np.uint16))
    with pytest.raises(pl.ModelError, match=r"-70000.*float16 ends at 65504"):
        checks[0]()
    checks[1]()


def test_typical_dtype():
    """The dtype of most weights counts, not that of the first."""
    seen = []
    module = torch.nn.Sequential(torch.nn.BatchNorm2d(1), conv(n_out=8).bfloat16())
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    TorchModel(module)(np.zeros((1, 1, 8, 8), np.float32))
    assert seen == [torch.bfloat16]


def test_no_weights():
    """A network without weights gets float32."""
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    result = pl.predict(torch.nn.ReLU(), image, axes="YX", patch_size=8, device="cpu", progress=False)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, image)


@pytest.mark.parametrize("make", [lambda: torch.nn.LazyConv2d(2, 3), lambda: torch.nn.Conv2d(1, 2, 3, device="meta")])
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_weights_without_values(make):
    """A network whose weights are not loaded is refused."""
    with pytest.raises(pl.ModelError, match="weights without values"):
        TorchModel(make())


def test_no_gradients():
    """Outputs are detached."""
    assert not TorchModel(conv())(np.ones((1, 1, 8, 8), np.float32)).requires_grad


def test_not_copied():
    """A network is copied only if its device or the dtype of its weights changes."""
    model = TorchModel(conv())
    assert model.on("cpu", None).module is model.module
    assert model.on(None, "bfloat16").module is model.module
    assert model.on("auto" if not torch.cuda.is_available() else "cpu", "float32").module is model.module


@pytest.mark.parametrize("own", ["float16", "float64"])
def test_precision_of_converted_weights(own):
    """In another precision than that of the weights, a copy is converted; the network stays as it is."""
    module = conv().to(getattr(torch, own))
    moved = TorchModel(module).on(None, "float32")
    assert module.weight.dtype == getattr(torch, own)
    assert moved.module.weight.dtype == torch.float32
    assert TorchModel(module).on(None, own if own == "float16" else None).module is module


def test_cannot_be_copied():
    """A network that cannot be copied is refused, with what to do."""
    module = conv().half()
    module.held = module.weight * 2  # a result that needs a gradient
    with pytest.raises(pl.ModelError, match=r"Conv2d cannot be copied.*leave precision out"):
        pl.predict(module, np.ones((40, 40)), axes="YX", patch_size=32, precision="float32", progress=False)


def test_wrong_precision():
    """A precision that the weights do not have is refused."""
    with pytest.raises(pl.ArgumentError, match=r"precision is 'float16'.*weights in bfloat16"):
        TorchModel(conv().bfloat16(), precision="float16")


class Conditioned(torch.nn.Module):
    """A network with a second input."""

    def __init__(self):
        super().__init__()
        self.layer = conv()

    def forward(self, batch, step, bias=None):
        return self.layer(batch) * step + (0 if bias is None else bias)


def test_second_input():
    """A network that needs a second input is refused before anything runs, and takes it by `functools.partial`."""
    image = np.ones((40, 40), np.float32)
    with pytest.raises(pl.ModelError, match=r"needs the inputs batch, step.*functools.partial\(network, step=…\)"):
        pl.predict(Conditioned(), image, axes="YX", patch_size=32, progress=False)
    module = Conditioned()
    once, twice = (
        pl.predict(functools.partial(module, step=step), image, axes="YX", patch_size=32, progress=False)
        for step in (1, torch.tensor(2.0))
    )
    np.testing.assert_array_equal(2 * once, twice)


def test_wrong_inputs():
    """Inputs that a network does not have, and one in place of the batch, are refused."""
    with pytest.raises(pl.ModelError, match=r"inputs has 'foo'.*batch, step, bias"):
        TorchModel(Conditioned(), inputs={"step": 1, "foo": 2})
    with pytest.raises(pl.ModelError, match="do not bind the first"):
        TorchModel(Conditioned(), inputs={"step": 1, "batch": 2})
    with pytest.raises(pl.ArgumentError, match="by name"):
        pl.predict(functools.partial(Conditioned(), 1), np.ones((40, 40)), axes="YX", patch_size=32, progress=False)


@pytest.mark.parametrize("script", [torch.jit.script, lambda module: torch.jit.trace(module, torch.ones(1, 1, 8, 8))])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_script(network, script):
    """A network of TorchScript runs in evaluation mode, and is in its own mode afterwards."""
    network.eval() if script is not torch.jit.script else network.train()
    scripted = script(network)
    image = np.random.default_rng(0).random((40, 50), np.float32)
    result = pl.predict(scripted, image, axes="YX", patch_size=32, overlaps=4, progress=False)
    assert [part.training for part in scripted.modules()] == [part.training for part in network.modules()]
    np.testing.assert_allclose(result, whole(network.eval(), image[None]), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_frozen_script(network):
    """A frozen network of TorchScript has no mode, and runs."""
    frozen = torch.jit.freeze(torch.jit.script(network.eval()))
    assert TorchModel(frozen)(np.ones((1, 1, 8, 8), np.uint16)).shape == (1, 2, 8, 8)


def test_compiled(network):
    """A compiled network is in its own mode afterwards."""
    compiled = torch.compile(network, backend="eager")
    image = np.random.default_rng(0).random((32, 32), np.float32)
    result = pl.predict(compiled, image, axes="YX", patch_size=32, overlaps=4, progress=False)
    assert all(part.training for part in compiled.modules())
    np.testing.assert_allclose(result, whole(network.eval(), image[None]), rtol=1e-4, atol=1e-5)


def test_planes():
    """A 2D network is run on a stack slice by slice, without two numbers in `patch_size`."""
    stack = np.random.default_rng(0).random((3, 40, 50), np.float32)
    result = pl.predict(conv(), stack, axes="ZYX", patch_size=32, overlaps=4, progress=False)
    expected = np.stack([whole(conv(), plane[None]) for plane in stack], axis=1)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_three_dimensions():
    """A 3D network is run on a stack as it is, and refuses an image without Z."""
    stack = np.random.default_rng(0).random((9, 20, 30), np.float32)
    result = pl.predict(conv(3), stack, axes="ZYX", patch_size=(8, 16, 16), overlaps=2, progress=False)
    np.testing.assert_allclose(result, whole(conv(3), stack[None]), rtol=1e-4, atol=1e-5)
    with pytest.raises(pl.GeometryError, match=r"the model is 3D.*without Z"):
        pl.predict(conv(3), stack[0], axes="YX", patch_size=16, progress=False)


class Attention(torch.nn.Module):
    """A network that depends on the order of its batch in memory."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = conv(n_out=4), 0

    def forward(self, batch):
        self.calls += 1
        out = self.layer(batch)
        return out.view(len(out), -1).softmax(1).view(len(out), 4, *batch.shape[2:])


def test_depends_on_memory_order():
    """A network that cannot have its channels side by side gets contiguous batches, and is asked once for each shape."""
    module = Attention()
    model = TorchModel(module)
    batch = np.random.default_rng(0).random((2, 1, 16, 16), np.float32)
    for _ in range(3):
        result = model(batch)
    assert module.calls == 4
    with torch.no_grad():
        np.testing.assert_array_equal(result, module(torch.from_numpy(batch)))


@pytest.mark.parametrize(
    ("norm", "expected"),
    [(torch.nn.BatchNorm2d(4), True), (torch.nn.InstanceNorm2d(4), False), (torch.nn.GroupNorm(2, 4), False)],
)
@pytest.mark.parametrize("n_in", [1, 3])
def test_channels_side_by_side(norm, expected, n_in):
    """Channels are side by side for networks that gain by it; values differ by their rounding."""
    module = torch.nn.Sequential(conv(n_in=n_in, n_out=4), norm, conv(n_in=4)).eval()
    seen = []
    module[1].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    batch = np.random.default_rng(0).random((2, n_in, 16, 16), np.float32)
    result = TorchModel(module)(batch)
    assert seen == [expected]
    assert result.is_contiguous()
    with torch.no_grad():
        np.testing.assert_allclose(result, module(torch.from_numpy(batch)), rtol=1e-5, atol=1e-6)


def test_hooks(network):
    """Hooks are called."""
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    TorchModel(network)(np.ones((1, 1, 8, 8), np.float32))
    assert calls == [1]


def digests(model):
    """The identity of a model."""
    found = identify_model(model)
    assert not found.unknown
    return dict(found.parts)


def test_identity(network):
    """Weights, precision and the version of a declared identity count; the mode and the object do not."""
    first = digests(TorchModel(network))
    assert digests(TorchModel(copy.deepcopy(network).eval())) == first
    assert digests(TorchModel(network, precision="bfloat16")) != first
    assert digests(TorchModel(copy.deepcopy(network).half())) != first
    with torch.no_grad():
        network[0].bias += 1
    assert digests(TorchModel(network)) != first


def test_declared_identity(network):
    """An identity that the description declares is that of the weights; the precision counts, too."""
    described = pl.ModelDescription(identity="epoch 80")
    exact, rough = TorchModel(network, described), TorchModel(network, described, precision="bfloat16")
    assert "epoch 80" in exact.identity
    assert digests(exact) == digests(TorchModel(conv(), described))
    assert digests(exact) != digests(rough)


def test_pickle(network):
    """A model pickles."""
    batch = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)
    model = TorchModel(network, pl.ModelDescription(overlaps=(2, 2)), "bfloat16")
    again = pickle.loads(pickle.dumps(model))
    assert again.description == model.description
    np.testing.assert_array_equal(again(batch), model(batch))


def test_not_resumed_in_another_precision(network, tmp_path):
    """A run is not resumed in another precision."""
    calls = []

    def fails(*_):
        calls.append(1)
        if len(calls) == 20:
            raise MemoryError

    image = np.ones((64, 400), np.float32)
    settings = {
        "axes": "YX",
        "patch_size": 32,
        "overlaps": 0,
        "seams": "grid",
        "progress": False,
        "memory_limit": 300_000,
    }
    handle = network.register_forward_hook(fails)
    output = pl.OmeZarr(tmp_path / "out.ome.zarr", chunks=32)
    with pytest.raises(pl.ModelError):
        pl.predict(network, image, output, **settings)
    handle.remove()
    with pytest.raises(pl.SinkError, match="precision of 'TorchModel'"):
        pl.predict(network, image, output, precision="bfloat16", **settings)


class Halves(torch.nn.Module):
    """A network that accepts multiples of 4 only."""

    def __init__(self):
        super().__init__()
        self.layer = conv()

    def forward(self, batch):
        small = torch.nn.functional.avg_pool2d(batch, 4)
        return self.layer(batch) + torch.nn.functional.interpolate(small, scale_factor=4)


def test_wrong_size():
    """If a network does not accept the size of a tile, the message contains sizes that it accepts."""
    with pytest.raises(pl.ModelError, match=r"it accepts tiles of 32 × 32"):
        pl.predict(Halves(), np.ones((80, 80), np.float32), axes="YX", patch_size=30, progress=False)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["module", "script", "trace"])
def test_other_channels(network, kind):
    """A batch with other channels than the network takes is named in one line, also by TorchScript."""
    tile = torch.zeros(1, 1, 8, 8)
    module = {"module": network, "script": torch.jit.script(network), "trace": torch.jit.trace(network.eval(), tile)}[
        kind
    ]
    with pytest.raises(pl.ModelError, match=r"takes 1 channel\(s\) and got 3: .*--channels") as caught:
        pl.predict(module, np.zeros((3, 40, 40), np.uint8), axes="CYX", patch_size=32, progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_error_in_script():
    """An error that TorchScript raises is one line, without the traceback of its code."""

    class Strict(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[1] == 7, "seven channels only"
            return x

    with pytest.raises(pl.ModelError, match=r"raised .*seven channels only") as caught:
        pl.predict(torch.jit.script(Strict()), np.zeros((40, 40), np.uint8), axes="YX", patch_size=32, progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.nn.Identity, r"model is the class Identity: make a network of it, such as Identity\(\)"),
        ("net.pt", r"a torch.nn.Module or a list of these; load a file with load_model\('net.pt'\)"),
        ({"weight": torch.zeros(1)}, r"load weights into their network \(network.load_state_dict\)"),
        ([None], r"models\[0\] is None .*; load_model makes one from a file"),
    ],
)
def test_other_things(model, message):
    """What is not a model is refused, with the way to one."""
    with pytest.raises(pl.ArgumentError, match=message):
        pl.predict(model, np.zeros((40, 40), np.uint8), axes="YX", patch_size=32, progress=False)


def test_odd_size():
    """A tile that the network does not divide is refused, with what to choose."""
    network = torch.nn.Sequential(torch.nn.MaxPool2d(2), torch.nn.Upsample(scale_factor=2))
    with pytest.raises(
        pl.ModelOutputError, match=r"patch_size \(--patch-size\) that is a multiple of the model's stride"
    ):
        pl.predict(network, np.zeros((80, 80), np.uint8), axes="YX", patch_size=31, progress=False)
