"""What the tests of the command line share: JAX as its users have it."""

import pytest


@pytest.fixture(autouse=True)
def _strict():
    """In the place of the fixture of this name: float32, and optax's schedules may promote."""
