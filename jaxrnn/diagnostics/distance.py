"""The distance between two gradients."""

import jax
import numpy as np

from jaxrnn.types import Params


def as_vector(grads: Params) -> np.ndarray:
    """Returns a whole gradient as one float64 array; a complex number counts as two."""
    parts = [np.asarray(g, complex).ravel() for g in jax.tree.leaves(grads)]
    return np.concatenate([np.zeros(0, complex), *parts]).view(float)


def error_and_angle(gradient: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Returns ‖ĝ - g‖ / ‖g‖ and the angle between ĝ and g in degrees; NaN if a norm is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.linalg.norm(gradient - exact) / np.linalg.norm(exact)
        unit = gradient / np.linalg.norm(gradient)
        exact_unit = exact / np.linalg.norm(exact)
    # The cosine would have no digits left where the angle is small. Of the rhombus of two unit
    # vectors, the half angle is the arctangent of the ratio of its diagonals (W. Kahan).
    angle = 2 * np.arctan2(np.linalg.norm(unit - exact_unit), np.linalg.norm(unit + exact_unit))
    return float(error), float(np.degrees(angle))
