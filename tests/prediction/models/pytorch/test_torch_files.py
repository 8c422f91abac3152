"""Files of PyTorch: what runs by itself, what needs a network, and what is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import patchloom as pl
from patchloom.prediction.models.pytorch.torch_files import make_network

torch = pytest.importorskip("torch")

IMAGE = np.random.default_rng(0).random((37, 51), np.float32)


def network():
    """A network with batch norm and dropout, left in training mode."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.Dropout(), torch.nn.Conv2d(4, 2, 1)
    )


def whole(module):
    """The network run on the whole image, by PyTorch alone."""
    with torch.no_grad():
        return module.eval()(torch.from_numpy(IMAGE)[None, None])[0]


def predict(model):
    """The image predicted in tiles."""
    return pl.predict(model, IMAGE, axes="YX", patch_size=32, overlaps=4, progress=False)


@pytest.fixture
def script(tmp_path):
    """A file of TorchScript with an extra file, saved in training mode."""
    with pytest.warns(DeprecationWarning, match="jit"):
        scripted = torch.jit.script(network())
    path = tmp_path / "net.ts"
    with pytest.warns(DeprecationWarning, match="jit"):
        torch.jit.save(scripted, path, _extra_files={"notes.txt": "epoch 80"})
    return path


@pytest.mark.parametrize("suffix", [".pt", ".ts", ".torchscript", ".PT"])
def test_script(script, suffix):
    """A file of TorchScript is a model, whatever its ending, and runs in evaluation mode."""
    path = script.rename(script.with_suffix(suffix))
    model = pl.load_model(path)
    assert model.files == (path,)
    np.testing.assert_allclose(predict(model), whole(network()), rtol=1e-4, atol=1e-5)


def test_script_in_another_process(script, tmp_path):
    """A model of TorchScript is opened again by its path in another process that runs elsewhere."""
    model = pl.load_model(script, precision="bfloat16")
    batch = np.ones((1, 1, 8, 8), np.float32)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    call = (
        "import pickle, sys, numpy as np; model = pickle.load(open(sys.argv[1], 'rb')); "
        "np.save(sys.argv[2], model(np.ones((1, 1, 8, 8), np.float32)))"
    )
    subprocess.run(
        [sys.executable, "-c", call, tmp_path / "model.pickle", tmp_path / "out.npy"], check=True, cwd=tmp_path.parent
    )
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model(batch))


def test_output_over_the_model(script, tmp_path):
    """An output is not written over the file of the network."""
    model = pl.load_model(script)
    with pytest.raises(pl.SinkError):
        pl.predict(model, IMAGE, tmp_path, axes="YX", patch_size=32, progress=False)


def test_device_of_weights(script):
    """A network that was saved on another device is loaded to the CPU."""
    assert pl.load_model(script, device="cpu").device == "cpu"


def test_weights_alone(tmp_path):
    """A file of weights needs the function that makes the network."""
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(pl.ModelError, match=r"weights, and no network.*--model weights.pt --network module:name"):
        pl.load_model(tmp_path / "weights.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_network(tmp_path, zipped):
    """A pickled network is refused unless it is trusted."""
    path = tmp_path / "net.pt"
    torch.save(network(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pl.ModelError, match=r"Sequential.*state_dict.*trust=True"):
        pl.load_model(path)
    np.testing.assert_allclose(predict(pl.load_model(path, trust=True)), whole(network()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", [False, True])
def test_pickled_code(tmp_path, trap, zipped, inside):
    """A pickle that would write a file is refused, and nothing is written."""
    trapped, folder = trap
    path = tmp_path / "net.pt"
    torch.save(
        {"weights": torch.ones(2), "x": trapped} if inside else trapped, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(pl.ModelError, match="more than tensors"):
        pl.load_model(path)
    assert not folder.exists()


def test_plain_pickle(tmp_path, trap):
    """A pickle of Python is refused, and nothing is written."""
    trapped, folder = trap
    (tmp_path / "net.pt").write_bytes(pickle.dumps(trapped, protocol=2))
    with pytest.raises(pl.ModelError):
        pl.load_model(tmp_path / "net.pt")
    assert not folder.exists()


def test_pickle_beside_script(script, trap):
    """A pickle among the extra files of TorchScript is not loaded."""
    trapped, folder = trap
    with zipfile.ZipFile(script, "a") as archive:
        archive.writestr("net/extra/notes.pkl", pickle.dumps(trapped))
    predict(pl.load_model(script))
    assert not folder.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".ts", ".safetensors", ".pth"])
@pytest.mark.parametrize(
    "content", [b"", b"\0", b"no network", b"PK\3\4 no archive", b"\x80\x02.", bytes(range(256)) * 20]
)
def test_other_files(tmp_path, suffix, content):
    """Files of anything else are refused with one sentence."""
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(pl.ModelError, match="is empty" if not content else "net"):
        pl.load_model(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated(script, tmp_path, share):
    """A file that was cut off is refused."""
    content = script.read_bytes()
    for path in (script, tmp_path / "weights.pt"):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(pl.ModelError, match=r"damaged|not a file"):
            pl.load_model(path)


def test_no_file(tmp_path):
    """A file that does not exist, and a folder, are refused."""
    with pytest.raises(pl.ModelNotFoundError, match="there is no model file"):
        pl.load_model(tmp_path / "net.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(pl.ModelError, match="is a folder"):
        pl.load_model(tmp_path / "folder.pt")


def test_object(tmp_path):
    """A file of tensors without names is refused."""
    torch.save([torch.ones(2)], tmp_path / "net.pt")
    with pytest.raises(pl.ModelError, match="object of type list"):
        pl.load_model(tmp_path / "net.pt")


def trained(code, **arguments):
    """Make a network of the module, with weights of its own."""
    return make_network(f"{code}:make", {"seed": 5, **arguments}).module


@pytest.mark.parametrize("name", ["make", "Tiny", "tiny"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_weights(code, tmp_path, name, suffix):
    """Weights are loaded into the network that a function or class makes, or into a copy of a network."""
    module = trained(code)
    torch.save(module.state_dict(), tmp_path / f"weights{suffix}")
    model = pl.load_model(tmp_path / f"weights{suffix}", network=f"{code}:{name}")
    assert not torch.equal(sys.modules["tiny_networks"].tiny.down.weight, module.down.weight)
    np.testing.assert_allclose(predict(model), whole(module), rtol=1e-4, atol=1e-5)


def test_safetensors(code, tmp_path):
    """Weights of a file of safetensors are loaded, too."""
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(trained(code).state_dict(), tmp_path / "weights.safetensors")
    model = pl.load_model(tmp_path / "weights.safetensors", network=f"{code}:make")
    np.testing.assert_allclose(predict(model), whole(trained(code)), rtol=1e-4, atol=1e-5)
    with pytest.raises(pl.ModelError, match="--network module:name"):
        pl.load_model(tmp_path / "weights.safetensors")


def test_arguments(code, tmp_path):
    """Arguments are those of the function that makes the network."""
    path = tmp_path / "weights.pt"
    torch.save(trained(code, channels=7).state_dict(), path)
    assert pl.load_model(path, network=f"{code}:make", arguments={"channels": 7}).module.down.out_channels == 7
    with pytest.raises(
        pl.ModelError, match=r"other shapes .* for down.weight \(\(7, 1, 3, 3\) instead of \(4, 1, 3, 3\)\)"
    ):
        pl.load_model(path, network=f"{code}:make")
    with pytest.raises(pl.ModelError, match=r"make makes no network.*width"):
        pl.load_model(path, network=f"{code}:make", arguments={"width": 7})
    with pytest.raises(pl.ModelError, match="nothing makes a int"):
        pl.load_model(path, network=f"{code}:nothing")


def test_network_with_code(script, code):
    """A file that contains the code of its network takes no other."""
    with pytest.raises(pl.ModelError, match="leave network and arguments out"):
        pl.load_model(script, network=f"{code}:make")


def test_checkpoint_of_another_tool(code, tmp_path):
    """A checkpoint that is not of CAREamics is loaded if its network is named."""
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in trained(code).state_dict().items()}},
        tmp_path / "run.ckpt",
    )
    model = pl.load_model(tmp_path / "run.ckpt", network=f"{code}:make")
    np.testing.assert_allclose(predict(model), whole(trained(code)), rtol=1e-4, atol=1e-5)
    with pytest.raises(pl.ModelError, match=r"not a checkpoint of CAREamics.*--network"):
        pl.load_model(tmp_path / "run.ckpt")


def test_inputs(tmp_path):
    """Further inputs of a program are bound by name."""

    class Scaled(torch.nn.Module):
        def forward(self, batch, factor):
            return batch * factor

    program = torch.export.export(Scaled(), (torch.ones(1, 1, 32, 32), torch.ones(1)))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(pl.ModelError, match=r"factor"):
        pl.load_model(tmp_path / "net.pt2")
    model = pl.load_model(tmp_path / "net.pt2", inputs={"factor": torch.tensor([3.0])})
    np.testing.assert_array_equal(pl.predict(model, IMAGE, axes="YX", progress=False), 3 * IMAGE)


def test_network_for_another_kind(onnx_file):
    """A network is only for files of PyTorch."""
    with pytest.raises(pl.ModelError, match=r"network is 'a:b', which is for networks of PyTorch"):
        pl.load_model(onnx_file("float[N, 1, H, W]"), network="a:b")


def test_command(code, tmp_path):
    """The command line makes a network, and loads its weights."""
    torch.save(trained(code, channels=7).state_dict(), tmp_path / "weights.pt")
    np.save(tmp_path / "image.npy", IMAGE)
    arguments = ["predict", tmp_path / "image.npy", "--axes=YX", "--patch-size=32", "--quiet", "--overlaps=4"]
    options = [f"--model={tmp_path / 'weights.pt'}", f"--network={code}:make", "--argument=channels=7"]
    subprocess.run([sys.executable, "-m", "patchloom", *arguments, *options, "-o", tmp_path / "out.npy"], check=True)
    model = pl.load_model(tmp_path / "weights.pt", network=f"{code}:make", arguments={"channels": 7})
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), predict(model))
