"""Small networks of MONAI, and their files."""

from __future__ import annotations

import warnings

import torch
from monai.networks.nets import DynUNet, SegResNet, SwinUNETR, UNet

NAMES = ("UNet", "DynUNet", "SegResNet", "SwinUNETR")
TRACED_SIZE = 64
STRIDE = {"UNet": 4, "DynUNet": 4, "SegResNet": 4, "SwinUNETR": 32}


def make(name, n_dims, norm="batch"):
    """Return a network of random weights, of one channel and two classes."""
    torch.manual_seed(0)
    dims = {"spatial_dims": n_dims, "in_channels": 1, "out_channels": 2}
    network = {
        "UNet": lambda: UNet(**dims, channels=(2, 4, 8), strides=(2, 2), num_res_units=1, norm=norm),
        "DynUNet": lambda: DynUNet(
            **dims, kernel_size=[3] * 3, strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[2, 4, 8], norm_name=norm
        ),
        "SegResNet": lambda: SegResNet(
            **dims,
            init_filters=4,
            blocks_down=(1, 1, 1),
            blocks_up=(1, 1),
            norm=("group", {"num_groups": 2}) if norm == "group" else norm,
        ),
        "SwinUNETR": lambda: SwinUNETR(
            **dims, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), norm_name=norm
        ),
    }[name]()  # fmt: skip
    for module in network.modules():  # statistics as after a training
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return network.eval()


def example(n_dims):
    return torch.zeros(1, 1, *[TRACED_SIZE] * n_dims)


def save_onnx(network, path, n_dims, *, with_names=True):
    """Export by tracing, with free sizes; their names are those of axes, or without meaning."""
    letters = "NCDHW" if n_dims == 3 else "NCHW"
    free = {axis: letter if with_names else f"size{axis}" for axis, letter in enumerate(letters) if letter != "C"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example(n_dims),),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": free, "logits": free},
            opset_version=17,
            dynamo=False,
        )
    return path


def save_exported(network, path, n_dims, *, is_free=True):
    """Export as a program of PyTorch, with free or fixed sizes."""
    free = {axis: torch.export.Dim.DYNAMIC for axis in range(2 + n_dims) if axis != 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            network, (example(n_dims).repeat(2, *[1] * (n_dims + 1)),), dynamic_shapes=(free,) if is_free else None
        )
        torch.export.save(program, path)
    return path
