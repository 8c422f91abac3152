"""Lightning: fit, validate and predict through its trainer; images out of its predictions, and nothing kept."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import patchloom as pl
from patchloom.torch import FlipRot90, LocalitySampler, PatchDataset, decollate

lightning = pytest.importorskip("lightning.pytorch")
torch = pytest.importorskip("torch")
from patchloom.torch import PatchDataModule, StitchingWriter  # noqa: E402  # only where Lightning is

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


class Network(lightning.LightningModule):
    """Learns one factor, and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.5))
        self.seen: dict[str, list[pl.PatchSpecs]] = {"train": [], "validate": []}

    def training_step(self, batch, number):
        self.seen["train"] += decollate(batch.specs)
        return ((batch.input * self.factor - batch.target) ** 2).mean()

    def validation_step(self, batch, number):
        self.seen["validate"] += decollate(batch.specs)

    def predict_step(self, batch, number):
        return torch.cat([batch.input, 2 * batch.input], dim=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def trainer(tmp_path, **options) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(**{"default_root_dir": tmp_path, "enable_checkpointing": False, **quiet, **options})


@pytest.fixture
def stacks(rng) -> list[pl.ImageStack]:
    return pl.open_stacks([rng.random((96, 128), dtype=np.float32), rng.random((64, 64), dtype=np.float32)], axes="YX")


@pytest.fixture
def plan(stacks) -> pl.StratifiedPatching:
    return pl.StratifiedPatching([stack.data_shape for stack in stacks], (16, 16), seed=3)


def test_fit_and_validate(tmp_path, stacks, plan):
    """Fitting and validation see every patch of their plans."""
    training, held_out = pl.split_training_validation(plan, 0.1, margin=8)
    data = PatchDataModule(
        PatchDataset(stacks, training, stacks, augmentation=FlipRot90()),
        PatchDataset(stacks, held_out, stacks),
        batch_size=8,
        sampler=lambda dataset: LocalitySampler(dataset.patching, [(1, 1, 32, 32)] * 2),
    )
    network = Network()

    trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(network, data)

    def in_order(specs) -> list[str]:
        return sorted(map(str, specs))

    n = len(training)
    assert in_order(network.seen["train"][:n]) == in_order(training.at_epoch(0))
    assert in_order(network.seen["train"][n:]) == in_order(training.at_epoch(1))
    assert network.seen["validate"] == list(held_out) * 2


def test_margin(stacks, plan):
    """No training patch is closer to a held-out patch than the margin."""
    training, held_out = pl.split_training_validation(plan, 0.1, margin=8)

    used = [training.at_epoch(epoch).specs(range(len(training))).columns for epoch in range(5)]

    for spec in held_out:
        for columns in used:
            same = columns["data_idx"] == spec["data_idx"]
            apart = np.abs(columns["coords"][same] - spec["coords"]) >= 16 + 8
            assert apart.any(axis=1).all()


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_resume(tmp_path, stacks, plan):
    """A training resumed in mid-epoch continues with the batches that were not loaded."""

    def data() -> PatchDataModule:
        return PatchDataModule(PatchDataset(stacks, plan, stacks), batch_size=8, seed=5)

    def saving(**options) -> lightning.Trainer:
        callback = lightning.callbacks.ModelCheckpoint(tmp_path / "saved", filename="middle", every_n_train_steps=3)
        return trainer(tmp_path, enable_checkpointing=True, callbacks=[callback], **options)

    undisturbed, killed, resumed = Network(), Network(), Network()
    trainer(tmp_path, max_epochs=2).fit(undisturbed, data())
    saving(max_steps=5).fit(killed, data())

    saved = tmp_path / "saved" / "middle.ckpt"
    saving(max_epochs=2).fit(resumed, data(), ckpt_path=saved, weights_only=False)

    assert len(killed.seen["train"]) == 5 * 8
    assert killed.seen["train"][: 3 * 8] + resumed.seen["train"] == undisturbed.seen["train"]


@pytest.mark.parametrize("seams", ["centered", "grid"])
def test_predict(tmp_path, stacks, seams):
    """Predictions become images, and the trainer keeps none of them."""
    tiling = pl.TiledPatching([stack.data_shape for stack in stacks], (32, 32), (9, 8), seams=seams)
    writer = StitchingWriter(tmp_path / "out")

    kept = trainer(tmp_path, callbacks=[writer]).predict(
        Network(), PatchDataModule(prediction=PatchDataset(stacks, tiling), batch_size=5)
    )

    assert kept is None
    assert [path.name for path in writer.results] == ["array.ome.zarr", "array-2.ome.zarr"]
    for stack, path in zip(stacks, writer.results, strict=True):
        result = pl.open_stacks(path)[0]
        assert result.original_axes == "CYX"
        both = result.extract_patch(0, None, (0, 0), stack.data_shape[2:])
        np.testing.assert_array_equal(both, [stack.array, 2 * stack.array])


def test_failed_prediction(tmp_path, stacks):
    """A failed prediction leaves no file."""

    class Broken(Network):
        def predict_step(self, batch, number):
            if number == 2:
                raise ArithmeticError("boom")
            return batch.input

    tiling = pl.TiledPatching([stack.data_shape for stack in stacks], (32, 32), (8, 8))
    data = PatchDataModule(prediction=PatchDataset(stacks, tiling), batch_size=5)

    with pytest.raises(ArithmeticError, match="boom"):
        trainer(tmp_path, callbacks=[StitchingWriter(tmp_path / "out")]).predict(Broken(), data)

    assert not list(tmp_path.glob("out/*"))


def test_wrong_arguments(tmp_path, stacks, plan):
    """Missing datasets and wrong arguments are named."""
    with pytest.raises(pl.GeometryError, match="training is None"):
        PatchDataModule().train_dataloader()
    with pytest.raises(pl.GeometryError, match="no tiles"):
        trainer(tmp_path, callbacks=[StitchingWriter()]).predict(
            Network(), PatchDataModule(prediction=PatchDataset(stacks, plan))
        )
    (tmp_path / "there.npy").touch()
    tiling = pl.TiledPatching([stacks[0].data_shape], (32, 32), (8, 8))
    with pytest.raises(pl.OutputExistsError):
        trainer(tmp_path, callbacks=[StitchingWriter(tmp_path / "there.npy")]).predict(
            Network(), PatchDataModule(prediction=PatchDataset(stacks[:1], tiling))
        )


def test_lazy_import():
    """Lightning is imported when it is first used."""
    code = "import sys, patchloom.torch; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
