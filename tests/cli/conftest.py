"""What the tests of the command line share: JAX as its users have it."""

import pytest

from jaxrnn.cli import options


@pytest.fixture(autouse=True)
def _strict():
    """In the place of the fixture of this name: float32, and optax's schedules may promote."""


@pytest.fixture(autouse=True)
def _one_device(monkeypatch):
    """Commands run in the process of the tests, where JAX has started already."""
    monkeypatch.setattr(options, "CORES", 1)
