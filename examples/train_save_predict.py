"""From training to prediction: train a denoiser, save it with what prediction needs, and predict with it.

Run it in a folder with pairs of images, `noisy/*.tif` and `clean/*.tif`. In a shell, the saved network is used alike:
`patchloom predict noisy/1.tif --model denoiser.pt2 --output denoised.ome.tif`.
"""

import torch

import patchloom as pl
from patchloom.torch import EpochSampler, FlipRot90, PatchDataset, PatchLoader, save_model

noisy, clean = pl.open_stacks("noisy/*.tif"), pl.open_stacks("clean/*.tif")
measured = [pl.measure_normalization(image) for image in noisy]
patching = pl.StratifiedPatching([image.data_shape for image in noisy], patch_size=(64, 64), seed=1)
pairs = {"normalization": measured, "target_normalization": measured, "augmentation": FlipRot90()}
dataset = PatchDataset(noisy, patching, clean, **pairs)

layers = [torch.nn.Conv2d(n_in, n_out, 5, padding=2) for n_in, n_out in ((1, 16), (16, 16), (16, 1))]
network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
with PatchLoader(dataset, batch_size=16, sampler=EpochSampler(dataset, seed=1)) as loader:
    for _epoch in range(20):
        for batch in loader:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(network(batch.input), batch.target).backward()
            optimizer.step()

save_model("denoiser.pt2", network, dataset, denormalize=True)
pl.predict(pl.load_model("denoiser.pt2"), noisy, "denoised")
