"""Small networks, written in ONNX's own notation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import parser


@pytest.fixture(scope="session")
def onnx_network() -> Callable[..., bytes]:
    """Write a network from `x` to `y`; the output is of the input's type and shape unless said otherwise."""

    def write(inputs: str, body: str = "y = Identity(x)", outputs: str = "") -> bytes:
        signature = f"({inputs} x) => ({outputs or f'{inputs} y'})"
        text = f'<ir_version: 8, opset_import: ["": 17]> network {signature} {{ {body} }}'
        return parser.parse_model(text).SerializeToString()

    return write


@pytest.fixture
def onnx_file(tmp_path: Path, onnx_network: Callable[..., bytes]) -> Callable[..., Path]:
    """Write such a network to a file."""

    def write(*args: str, name: str = "network.onnx", **kwargs: str) -> Path:
        path = tmp_path / name
        path.write_bytes(onnx_network(*args, **kwargs))
        return path

    return write
