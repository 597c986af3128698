"""Our error for forward-mode differentiation of a hand-written backward pass."""

import contextlib
from collections.abc import Iterator

from jaxrnn import check


@contextlib.contextmanager
def explain_forward_mode(loop: str) -> Iterator[None]:
    """Turns JAX's error under forward-mode differentiation into one that names the remedy."""
    try:
        yield
    except TypeError as error:
        got = f"{loop} under forward-mode differentiation (jvp, jacfwd or linearize)"
        expected = "loop=jaxrnn.scan, since a hand-written backward pass has no rule for it"
        check.require("forward-mode" not in str(error), "loop", got, expected, TypeError)
        raise
