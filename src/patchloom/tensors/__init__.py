"""Pixels as tensors of PyTorch that stay on a device: their arithmetic, their streams and their copies to the host."""
