import numpy as np
import pytest

from patchloom.errors import ArgumentError
from patchloom.image_stacks import ArrayStack, check_series


def stack(shape, axes, dtype="uint8", source="array"):
    return ArrayStack(np.zeros(shape, dtype), axes, source=source)


def test_differences():
    """Sizes, samples and dtypes may differ."""
    check_series([stack((3, 9, 8), "CYX"), stack((5, 3, 70, 80), "TCYX", "float32")])


def test_empty_series():
    """An empty series is refused."""
    with pytest.raises(ArgumentError, match="the series is empty"):
        check_series([])


def test_dimensions():
    """The error names both stacks if dimensions differ."""
    series = [stack((4, 9, 9), "ZYX", source="a.tif"), stack((5, 9, 9), "ZYX"), stack((9, 9), "YX", source="b.tif")]
    named = r"a\.tif \(stack 0\) is 3D .*\(1, 1, 4, 9, 9\) and b\.tif \(stack 2\) is 2D"
    with pytest.raises(ArgumentError, match=named):
        check_series(series)


def test_channels():
    """The error names both stacks if channels differ."""
    with pytest.raises(ArgumentError, match=r"a\.tif \(stack 0\) has 2 channels and b\.tif \(stack 1\) has 1"):
        check_series([stack((2, 9, 9), "CYX", source="a.tif"), stack((9, 9), "YX", source="b.tif")])
