"""Programs of `torch.export`: what they declare, on images of any size, and code inside."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from fractions import Fraction

import numpy as np
import pytest

import patchloom as pl
from patchloom.prediction.models.identity.model_identity import identify_model
from patchloom.prediction.models.pytorch.program_description import describe_program

torch = pytest.importorskip("torch")


class Levels(torch.nn.Module):
    """A network with one level at half the size, in 2D or 3D."""

    def __init__(self, n_dims=2, n_out=2):
        super().__init__()
        torch.manual_seed(0)
        kind, up = (getattr(torch.nn, f"{name}{n_dims}d") for name in ("Conv", "ConvTranspose"))
        self.first, self.down = kind(1, 4, 3, padding=1), kind(4, 4, 2, stride=2)
        self.up, self.last = up(4, 4, 2, stride=2), kind(8, n_out, 1)

    def forward(self, batch):
        first = self.first(batch)
        return self.last(torch.cat([first, self.up(self.down(first).relu())], 1))


def export(module, *sizes, batch=2, n_in=1, n_tiles=2, **named):
    """Export a network; a size that is not a number is dynamic."""
    shape = [16 * (axis + 1) if not isinstance(size, int) else size for axis, size in enumerate(sizes)]
    dynamic = {axis + 2: size for axis, size in enumerate(sizes) if not isinstance(size, int)}
    if not isinstance(batch, int):
        dynamic[0], batch = batch, n_tiles
    return torch.export.export(module.eval(), (torch.ones(batch, n_in, *shape),), dynamic_shapes=(dynamic,), **named)


def described(program):
    """What a program declares."""
    return describe_program(program, program.module())


def even(name, **bounds):
    """A dynamic size in steps of 8."""
    return 8 * torch.export.Dim(name, **bounds)


def test_sizes_in_steps(tmp_path):
    """Sizes in steps are read; tiles put together equal the network run on the whole image."""
    program = export(Levels(), even("h", min=2), even("w", min=1), batch=torch.export.Dim("b"))
    found = described(program)
    assert (found.min_size, found.size_step, found.origin_multiple) == ((16, 16), (8, 8), (8, 8))
    assert (found.batch_size, found.n_dims, found.in_channels, found.out_channels) == (None, 2, 1, 2)
    assert (found.out_dtype, found.scale) == ("float32", (Fraction(1), Fraction(1)))
    torch.export.save(program, tmp_path / "net.pt2")
    image = np.random.default_rng(0).random((24, 40), np.float32)
    with torch.no_grad():
        whole = Levels()(torch.from_numpy(image)[None, None])[0]
    model = pl.load_model(tmp_path / "net.pt2")
    result = pl.predict(model, image, axes="YX", patch_size=(16, 24), overlaps=8, progress=False)
    np.testing.assert_allclose(result, whole, rtol=1e-4, atol=1e-5)


def test_default_size():
    """A program with a size rule needs no patch size; a bounded one prefers a size within its bounds."""
    image = np.zeros((700, 900), np.float32)
    free = export(Levels(), even("h", min=2), even("w", min=2))
    assert pl.plan(image, model=free, axes="YX").layout.patch_size == (512, 512)
    bounded = export(Levels(), even("h", min=2, max=30), even("w", min=2))
    assert pl.plan(image, model=bounded, axes="YX").layout.patch_size == (240, 512)


def test_fixed_sizes():
    """Fixed sizes and a fixed batch are used: a batch is filled up."""
    program = export(Levels(3), 8, 16, 16, batch=2)
    found = described(program)
    assert (found.patch_size, found.batch_size, found.n_dims) == ((8, 16, 16), 2, 3)
    image = np.random.default_rng(0).random((9, 20, 20), np.float32)
    result = pl.predict(program, image, axes="ZYX", overlaps=(2, 8, 8), origin_multiple=2, progress=False)
    assert result.shape == (2, 9, 20, 20)


AUTO = torch.export.Dim.DYNAMIC


@pytest.mark.parametrize(
    ("module", "least", "step"),
    [
        (Levels(), 4, 2),
        (torch.nn.Sequential(Levels(), torch.nn.Identity(), torch.nn.Conv2d(2, 1, 3)), 4, 2),
        (torch.nn.Sequential(torch.nn.ReflectionPad2d(7), torch.nn.Conv2d(1, 2, 15)), 8, 1),
    ],
    ids=["stride", "valid", "reflect"],
)
def test_conditions(module, least, step):
    """Sizes that are declared free, but limited by conditions, follow these: smaller ones and others fail."""
    program = export(module, AUTO, AUTO, batch=AUTO)
    found = described(program)
    assert (found.min_size, found.size_step, found.batch_size) == ((least, least), (step, step), None)
    image = np.random.default_rng(0).random((37, 53), np.float32)
    pl.predict(program, image, axes="YX", patch_size=16 + least, overlaps=8, progress=False)
    if step > 1:
        with pytest.raises(pl.GeometryError, match="patch_size is 15"):
            pl.predict(program, image, axes="YX", patch_size=15, overlaps=8, progress=False)


def test_several_tiles_only():
    """A program that was traced for several tiles, and not for one, gets as many."""
    program = export(Levels(), even("h", min=2), even("w", min=2), batch=torch.export.Dim("b", min=3), n_tiles=4)
    assert described(program).batch_size == 3
    image = np.random.default_rng(0).random((24, 24), np.float32)
    assert pl.predict(program, image, axes="YX", patch_size=24, overlaps=0, progress=False).shape == (2, 24, 24)


@pytest.mark.parametrize(
    "sizes",
    [
        (16, even("w", min=2)),  # fixed along one axis
        (shared := even("side", min=2), shared),  # squares only
    ],
)
def test_uncertain_sizes(sizes):
    """Sizes that a rule for each axis does not describe are left open."""
    if sizes[0] is shared:
        program = torch.export.export(
            Levels().eval(), (torch.ones(1, 1, 32, 32),), dynamic_shapes=({2: shared, 3: shared},)
        )
    else:
        program = export(Levels(), *sizes)
    found = described(program)
    assert (found.patch_size, found.min_size, found.size_step, found.n_dims) == (None, None, None, 2)


def test_several_outputs():
    """A program with several outputs declares none of them."""

    class Two(Levels):
        def forward(self, batch):
            out = super().forward(batch)
            return {"mask": out, "half": out[..., ::2, ::2]}

    program = export(Two(), even("h", min=2), even("w", min=2))
    assert described(program).out_channels is None
    result = pl.predict(program, np.ones((32, 48), np.float32), axes="YX", patch_size=16, overlaps=0, progress=False)
    assert {name: array.shape for name, array in result.items()} == {"mask": (2, 32, 48), "half": (2, 16, 24)}


def test_not_an_image():
    """A program on other tensors declares nothing."""
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.ones(4, 3),))
    assert described(program) == pl.ModelDescription()


def test_precision():
    """A program in half precision returns float32."""
    program = torch.export.export(Levels().eval().bfloat16(), (torch.ones(1, 1, 16, 16, dtype=torch.bfloat16),))
    result = pl.predict(program, np.ones((20, 30), np.float32), axes="YX", progress=False)
    assert result.dtype == np.float32


def test_pickle(tmp_path):
    """A program is opened again in another process, and is the same model."""
    torch.export.save(export(Levels(), 16, 16), tmp_path / "net.pt2")
    model = pl.load_model(tmp_path / "net.pt2")
    again = pickle.loads(pickle.dumps(model))
    batch = np.random.default_rng(0).random((2, 1, 16, 16), np.float32)
    np.testing.assert_array_equal(again(batch), model(batch))
    assert identify_model(again) == identify_model(model)
    assert model.description.identity


def changed(path, member, change):
    """Change a member of an archive."""
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, change(data) if name.endswith(member) else data)


@pytest.mark.parametrize("trapped_part", ["weights", "sample inputs", "expression", "operator", "name", "comment"])
def test_code_in_program(tmp_path, trap, trapped_part):
    """Code in a program is refused, and does not run: pickles, expressions and operators."""
    trapped, folder = trap
    path = tmp_path / "net.pt2"
    torch.export.save(export(Levels(), even("h", min=2), even("w", min=2)), path)
    pickled = io.BytesIO()
    torch.save(trapped, pickled)
    call = f"__import__('os').mkdir({str(folder)!r})"

    def config(data):
        return json.dumps(
            {"config": {name: {**of, "use_pickle": True} for name, of in json.loads(data)["config"].items()}}
        )

    def graph(data):
        text = data.decode()
        if trapped_part == "operator":
            return text.replace("torch.ops.aten.relu.default", "torch.os.getcwd")
        if trapped_part == "name":
            return text.replace('"batch"', json.dumps(f"batch={call}"))
        if trapped_part == "comment":
            return text.replace("in forward", f"in forward\\r{call}")
        found = json.loads(text)["graph_module"]["graph"]["tensor_values"]["batch"]["sizes"][2]["as_expr"]["expr_str"]
        return text.replace(json.dumps(found), json.dumps(call))

    if trapped_part == "weights":
        changed(path, "model_weights_config.json", config)
        changed(path, "weights/weight_0", lambda _: pickled.getvalue())
    elif trapped_part == "sample inputs":
        changed(path, "sample_inputs/model.pt", lambda _: pickled.getvalue())
    else:
        changed(path, "models/model.json", graph)
    with pytest.raises(pl.ModelError, match=r"contains code.*trust=True"):
        pl.load_model(path)
    assert not folder.exists()
