"""A canary for the compiler underneath: some releases of jaxlib compute wrong numbers."""

import re
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
pytestmark = pytest.mark.optimized
EXCLUDED = {"0.10.2", "0.11.0"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1_000, 16_385, 32_769])
def test_a_vmapped_product_and_sum_is_exact_under_jit(dtype, rows):
    """Guards against jax#39103: jaxlib 0.10.2 on CPU, with no error and no NaN.

    There the last of 32,769 squares, 2¹⁵ squared = 1073741824, came out as 1071645696, and the
    last of 16,385 in float64 as 267911424 for 2¹⁴ squared. A gradient is made of such products.
    """
    matrix = jnp.eye(3, dtype=dtype)

    @jax.jit
    @jax.vmap
    def squared_norm(row):
        return jnp.sum((matrix @ row) ** 2)

    numbers = np.arange(rows, dtype=dtype)
    vectors = np.stack([numbers, np.zeros_like(numbers), np.zeros_like(numbers)], axis=1)
    np.testing.assert_array_equal(squared_norm(vectors), numbers**2)


def test_the_installed_release_is_not_an_excluded_one():
    assert not EXCLUDED & {jax.__version__, jaxlib.__version__}


@pytest.mark.parametrize("package", ["jax", "jaxlib"])
def test_the_package_excludes_the_releases(package):
    requirements = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    (requirement,) = (r for r in requirements if re.split("[<>=!~]", r)[0] == package)
    assert set(re.findall(r"!=([\d.]+)", requirement)) >= EXCLUDED
