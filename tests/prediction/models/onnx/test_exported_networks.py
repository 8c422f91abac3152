"""A network of PyTorch, exported by tracing, gives tiled what PyTorch gives for the whole image; `make test-models` tests larger ones."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from patchloom.prediction import predict
from patchloom.prediction.models.onnx.onnx_model import OnnxModel


class UNet(nn.Module):
    """Two levels, group norm or batch norm, and a skipped connection."""

    def __init__(self, n_dims, norm):
        super().__init__()
        conv, transposed, batch_norm = (
            (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
            if n_dims == 2
            else (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d)
        )
        self.norm = batch_norm(4) if norm == "batch" else nn.GroupNorm(2, 4)
        self.first = conv(1, 4, 3, padding=1)
        self.down = conv(4, 4, 3, stride=2, padding=1)
        self.up = transposed(4, 4, 2, stride=2)
        self.last = conv(8, 2, 1)

    def forward(self, image):
        skipped = torch.relu(self.norm(self.first(image)))
        return self.last(torch.cat([skipped, self.up(torch.relu(self.down(skipped)))], dim=1))


def export(network, path, n_dims):
    free = {axis: f"size{axis}" for axis in range(2 + n_dims) if axis != 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated, and needs no further package
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, *[16] * n_dims),),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": free, "logits": free},
            opset_version=17,
            dynamo=False,
        )
    return path


@pytest.mark.parametrize("n_dims", [2, 3])
def test_tiled_equals_whole(tmp_path, rng, n_dims):
    """Sizes, stride, layout and channels are found in the file."""
    torch.manual_seed(0)
    network = UNet(n_dims, "batch").eval()
    model = OnnxModel(export(network, tmp_path / "network.onnx", n_dims), threads=1)
    image = rng.normal(size=(51, 37) if n_dims == 2 else (21, 19, 35)).astype(np.float32)

    result = predict(
        model,
        image,
        axes="ZYX"[-n_dims:],
        patch_size=24 if n_dims == 2 else 18,
        overlaps=8,
        seams="grid",
        progress=False,
    )

    padded = np.pad(image, [(0, side % 2) for side in image.shape], mode="reflect")
    with torch.inference_mode():
        expected = network(torch.from_numpy(padded[None, None]))[0].numpy()
    assert model.description.size_step == model.description.origin_multiple == (2,) * n_dims
    assert model.description.in_channels == 1
    np.testing.assert_allclose(result, expected[(slice(None), *map(slice, image.shape))], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_dims", [2, 3])
def test_group_norm(tmp_path, n_dims):
    """A group norm, which the exporter writes as reshapes, does not hide the sizes."""
    model = OnnxModel(export(UNet(n_dims, "group").eval(), tmp_path / "network.onnx", n_dims), threads=1)

    assert model.description.min_size == model.description.size_step == (2,) * n_dims
