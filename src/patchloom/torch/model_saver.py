"""Networks saved at the end of a training with Lightning; needs the extra `lightning`."""

from __future__ import annotations

import tempfile
from operator import attrgetter
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import nn

from patchloom.argument_checks import instance, whole_number
from patchloom.errors import ArgumentError
from patchloom.torch.datasets.microsplit_dataset import MicroSplitDataset
from patchloom.torch.datasets.patch_dataset import PatchDataset
from patchloom.torch.saving.save_model import save_model
from patchloom.torch.saving.saved_files import check_path


class SaveModel(Callback):
    """A callback that saves the network at the end of a training, with what prediction needs.

    What cannot be saved is reported when the training begins. The network of the last epoch is saved. To save that of another
    epoch, load its checkpoint and call `save_model`.

    Parameters
    ----------
    path : str or Path
        The file, `.pt2` or `.pt`; see `save_model`.
    network : str
        Name of the attribute of the `LightningModule` that contains the network; it may be dotted.
    dataset : PatchDataset or MicroSplitDataset, optional
        The dataset of the training. If None, that of the trainer's `PatchDataModule`.
    every_n_epochs : int, optional
        Number of epochs after which the file is written again during the training. If None, it is written at the end only.
    **options
        As of `save_model`.

    Raises
    ------
    ArgumentError
        If an argument has another type. When a training begins, also if there is no such attribute or dataset, and as
        `save_model` raises.

    Examples
    --------
    >>> from lightning.pytorch import Trainer                                                        # doctest: +SKIP
    >>> saver = SaveModel("denoiser.pt2", network="unet", denormalize=True)                            # doctest: +SKIP
    >>> Trainer(callbacks=[saver]).fit(module, PatchDataModule(dataset, batch_size=16))               # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        *,
        network: str,
        dataset: PatchDataset | MicroSplitDataset | None = None,
        every_n_epochs: int | None = None,
        **options: Any,
    ) -> None:
        self.path = check_path(path)
        self.network = instance("network", network, str, "the name of an attribute, such as 'unet'")
        self.dataset = dataset
        if every_n_epochs is not None:
            every_n_epochs = whole_number("every_n_epochs", every_n_epochs, least=1)
        self.every_n_epochs = every_n_epochs
        self.options = options

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Save the network once into a temporary folder, so that what cannot be saved is reported now."""
        if trainer.is_global_zero:
            with tempfile.TemporaryDirectory() as folder:
                self._save(Path(folder) / self.path.name, trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save the network after some epochs."""
        if trainer.is_global_zero and self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._save(self.path, trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Save the network."""
        if trainer.is_global_zero:
            self._save(self.path, trainer, pl_module)

    def _save(self, path: Path, trainer: Any, pl_module: Any) -> None:
        try:
            network = attrgetter(self.network)(pl_module)
        except AttributeError as error:
            raise ArgumentError(
                f"network is {self.network!r}, which {type(pl_module).__name__} does not have: give the name of the attribute that "
                "contains the network"
            ) from error
        if not isinstance(network, nn.Module):
            raise ArgumentError(
                f"network is {self.network!r}, which is a {type(network).__name__}: name a torch.nn.Module"
            )
        dataset = getattr(trainer.datamodule, "training", None) if self.dataset is None else self.dataset
        if dataset is None:
            raise ArgumentError("dataset is None: give the dataset of the training, or fit with a PatchDataModule")
        save_model(path, network, dataset, **self.options)
