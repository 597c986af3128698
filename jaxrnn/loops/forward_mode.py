"""What JAX says of forward-mode differentiation, in our words."""

import contextlib
from collections.abc import Iterator

from jaxrnn import check


@contextlib.contextmanager
def explain_forward_mode(loop: str) -> Iterator[None]:
    """Say of JAX's error under forward-mode differentiation what to do about it."""
    try:
        yield
    except TypeError as error:
        got = f"{loop} under forward-mode differentiation (jvp, jacfwd or linearize)"
        expected = "loop=jaxrnn.scan, since a hand-written backward pass has no rule for it"
        check.require("forward-mode" not in str(error), "loop", got, expected, TypeError)
        raise
