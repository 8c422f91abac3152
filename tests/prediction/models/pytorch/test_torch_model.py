"""Networks of PyTorch as models."""

import numpy as np
import pytest

import patchloom as pl
from patchloom.prediction.models.pytorch.torch_model import TorchModel

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
