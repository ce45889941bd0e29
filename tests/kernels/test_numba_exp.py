"""The exponential of the numba kernels, which is their own for float32."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fwp_rl.kernels.numba_math import exp
from fwp_rl.kernels.numba_runtime import compiled


@compiled
def _exp_of_each(x, y):  # type: ignore[no-untyped-def]
    for j in range(x.size):
        y[j] = exp(x[j])


def exp_of_each(x: NDArray[np.floating]) -> NDArray[np.floating]:
    y = np.empty_like(x)
    _exp_of_each(x, y)
    return y


def test_float32_is_close_everywhere() -> None:
    x = np.linspace(-87, 88, 1_000_003).astype(np.float32)
    assert np.abs(exp_of_each(x) / np.exp(x.astype(np.float64)) - 1).max() < 4e-7


def test_float64_is_numpys() -> None:
    x = np.linspace(-700, 700, 10_007)
    np.testing.assert_allclose(exp_of_each(x), np.exp(x), rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 3, 40])  # alone, in a remainder, in whole vectors
def test_ends_of_the_range(dtype: type, size: int) -> None:
    for x, expected in [
        *((np.inf, np.inf), (-np.inf, 0), (np.nan, np.nan), (0, 1), (-0.0, 1)),
        *((1e30, np.inf), (-1e30, 0)),
    ]:
        y = exp_of_each(np.full(size, x, dtype))
        np.testing.assert_array_equal(y, np.full(size, expected, dtype))
