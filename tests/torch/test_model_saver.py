"""A training with Lightning ends with a saved network, or is refused when it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.torch import PatchDataset

lightning = pytest.importorskip("lightning.pytorch")
torch = pytest.importorskip("torch")
from patchloom.torch import PatchDataModule, SaveModel  # noqa: E402  # only where Lightning is

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


class Training(lightning.LightningModule):
    """Learns one factor; each step changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Conv2d(1, 1, 1, bias=False)

    def training_step(self, batch: Any, number: int) -> Any:
        return ((self.net(batch.input) - 1) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def dataset(rng: np.random.Generator) -> PatchDataset:
    stacks = pl.open_stacks(rng.random((40, 40), np.float32) + 1, axes="YX")
    patching = pl.RandomPatching([stack.data_shape for stack in stacks], (16, 16), n_patches=4)
    return PatchDataset(stacks, patching)


def fit(saver: SaveModel, data: Any, tmp_path: Path, **options: Any) -> Training:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    training = Training()
    trainer = lightning.Trainer(
        default_root_dir=tmp_path, enable_checkpointing=False, max_epochs=2, callbacks=[saver], **quiet, **options
    )
    trainer.fit(training, data)
    return training


def test_end(dataset: PatchDataset, tmp_path: Path) -> None:
    """The file contains the network as it is at the end, and what the options are."""
    path = tmp_path / "net.pt2"
    saver = SaveModel(path, network="net", out_channel_names=["cells"], every_n_epochs=1)
    training = fit(saver, PatchDataModule(dataset, batch_size=2), tmp_path)
    model = pl.load_model(path, device="cpu")
    assert model.description.out_channel_names == ("cells",)
    prediction = pl.predict(model, np.ones((20, 20), np.float32), axes="YX", progress=False)
    np.testing.assert_allclose(prediction, training.net.weight.item(), rtol=1e-6)
    assert training.net.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "unet"}, "network is 'unet', which Training does not have"),
        ({"network": "training_step"}, "name a torch.nn.Module"),
        ({"network": "net", "denormalize": True}, "inputs of the dataset are not normalized"),
    ],
    ids=["no attribute", "no network", "nothing to undo"],
)
def test_refused(options: dict[str, Any], message: str, dataset: PatchDataset, tmp_path: Path) -> None:
    """What cannot be saved is reported before the training, and nothing is written."""
    with pytest.raises(pl.ArgumentError, match=message):
        fit(SaveModel(tmp_path / "net.pt2", **options), PatchDataModule(dataset, batch_size=2), tmp_path)
    assert not list(tmp_path.iterdir())


def test_dataset(dataset: PatchDataset, tmp_path: Path) -> None:
    """Without a data module, the dataset has to be given."""
    loader = torch.utils.data.DataLoader(dataset, 2)
    with pytest.raises(pl.ArgumentError, match="dataset is None"):
        fit(SaveModel(tmp_path / "net.pt2", network="net"), loader, tmp_path, limit_train_batches=0)


def test_path(tmp_path: Path) -> None:
    """Another file is not replaced, which is reported before anything else."""
    (tmp_path / "net.pt2").write_text("notes")
    with pytest.raises(pl.OutputExistsError, match="is not a saved network"):
        SaveModel(tmp_path / "net.pt2", network="net")
