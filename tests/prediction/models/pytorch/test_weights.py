"""Weights in files, under the names of others."""

from __future__ import annotations

import pytest

from patchloom.errors import ModelError
from patchloom.prediction.models.pytorch.pickled_file import read_pickled
from patchloom.prediction.models.pytorch.weights import load_weights, read_safetensors, weights_in

torch = pytest.importorskip("torch")


def read_weights(path, *, trust=False):
    """Read the weights in a file of `torch.save`."""
    return weights_in(path, read_pickled(path, trust=trust))


def network():
    """A network with weights in two parts."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))


def renamed(weights, change):
    """The weights under other names."""
    return {change(name): value for name, value in weights.items()}


CHANGES = {
    "none": lambda name: name,
    "DataParallel": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "Lightning": lambda name: f"model.{name}",
    "several": lambda name: f"model.module._orig_mod.{name}",
    "inside": lambda name: name.replace(".", "._orig_mod.", 1),
}


@pytest.mark.parametrize("container", [None, "state_dict", "model_state_dict", "model", "network_weights", "anything"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_names(tmp_path, change, container):
    """Weights of DataParallel, Lightning, `torch.compile` and training scripts fit, whatever contains them."""
    weights, path = renamed(network().state_dict(), change), tmp_path / "weights.pt"
    torch.save(weights if container is None else {container: weights, "epoch": 3}, path)
    empty = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))
    load_weights(empty, read_weights(path), path)
    assert all(torch.equal(value, network().state_dict()[name]) for name, value in empty.state_dict().items())


def test_one_of_several(tmp_path):
    """Of a training module with more parts, the part that the network is, is taken."""
    weights = renamed(network().state_dict(), CHANGES["Lightning"]) | {"loss.weight": torch.ones(3)}
    torch.save({"state_dict": weights}, tmp_path / "weights.ckpt")
    load_weights(network(), read_weights(tmp_path / "weights.ckpt"), tmp_path / "weights.ckpt")


def test_compiled_network(tmp_path):
    """Weights are loaded into the network inside a compiled one."""
    load_weights(torch.compile(network(), backend="eager"), network().state_dict(), tmp_path / "weights.pt")


def test_faults(tmp_path):
    """Missing, additional and other shapes are named, a few of each."""
    weights = {name: value for name, value in network().state_dict().items() if not name.startswith("1.")}
    weights |= {"extra.weight": torch.ones(2), "2.weight": torch.ones(3, 4, 1, 1)}
    with pytest.raises(ModelError) as caught:
        load_weights(network(), weights, tmp_path / "weights.pt")
    for part in (
        "lacks 1.weight, 1.bias, 1.running_mean, 1.running_var and 1 more",
        "has, and the network does not, extra.weight",
        "has other shapes than the network for 2.weight ((3, 4, 1, 1) instead of (2, 4, 1, 1))",
    ):
        assert part in str(caught.value)


def test_prefix_is_removed_for_the_message(tmp_path):
    """A common prefix is not named as a fault of every weight."""
    weights = renamed(network().state_dict(), CHANGES["DataParallel"])
    del weights["module.2.bias"]
    with pytest.raises(ModelError, match=r"the file lacks 2\.bias: make"):
        load_weights(network(), weights, tmp_path / "weights.pt")


def test_safetensors(tmp_path):
    """Weights in a file of safetensors are read; a damaged one is refused."""
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(network().state_dict(), path)
    read = read_safetensors(path)
    assert all(torch.equal(read[name], value) for name, value in network().state_dict().items())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelError, match="damaged file of safetensors"):
        read_safetensors(path)


@pytest.mark.parametrize(
    "content", [3, {"epoch": 3}, {}, [1, 2], {"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}]
)
def test_no_weights(tmp_path, content):
    """A file without weights, or with several, is refused."""
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match="no weights by their names"):
        read_weights(tmp_path / "weights.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_with_code(tmp_path, trap, zipped):
    """A checkpoint that would run code is refused; if it is trusted, its weights are read."""
    trapped, folder = trap
    path = tmp_path / "weights.ckpt"
    content = {"state_dict": network().state_dict(), "callback": trapped}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="trust=True"):
        read_weights(path)
    assert not folder.exists()
    assert read_weights(path, trust=True).keys() == network().state_dict().keys()
    assert folder.exists()
