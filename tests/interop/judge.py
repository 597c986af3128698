"""What every conversion is held against: the other library's own values and gradients."""

import contextlib

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from reference import distance, noise

import jaxrnn
from jaxrnn.types import Part

EXACT, SINGLE = 1e-12, 1e-6  # in float64; in float32, where a library knows no other


def drawn(examples, least=1):
    """Sizes T, B, I, H and a seed, a few for each test since each is compiled.

    At least 2 of each in float32, where the one number of a single unit may be small by chance.
    """
    sizes = st.tuples(*(st.integers(least, most) for most in (6, 3, 5, 5)), st.integers(0, 999))

    def decorated(test):
        settings = hypothesis.settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            phases=[hypothesis.Phase.generate],  # to shrink a case, each step of it is compiled
        )
        return settings(hypothesis.given(sizes=sizes)(test))

    return decorated


@contextlib.contextmanager
def at_ease():
    """Other libraries promote as JAX does by default."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def like(tree, seed, dtype=None):
    """Random numbers of the form of a tree, biases included."""
    numbers = noise(np.random.default_rng(seed), tree)
    return jax.tree.map(lambda x, n: np.asarray(n / 2, dtype or x.dtype), tree, numbers)


def gradients(run, cotangents, *args):
    """What `run(params, carry, xs) -> (carry, ys)` gives, and its gradient in all of them."""

    def value(*args):
        made = run(*args)
        pairs = zip(jax.tree.leaves(made), cotangents, strict=True)
        return sum(jnp.sum(x * v) for x, v in pairs), made

    (_, made), grads = jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)(*args)
    return made, grads


def same(theirs, ours, tolerance):
    """Leaf by leaf, relative to the norm."""
    assert jax.tree.structure(theirs) == jax.tree.structure(ours)
    off = jax.tree.map(lambda a, b: distance(b, a), theirs, ours)
    assert all(x < tolerance for x in jax.tree.leaves(off)), off


def agrees(read, theirs, tensors, carry, xs, tolerance=EXACT):
    """Values and gradients of a JAX library's own run, and of ours with the tensors read.

    Args:
        read: `tensors -> (cell, params)`.
        theirs: `(tensors, carry, xs) -> (carry, ys)`, with the carry in our form.
        tensors: a tree of arrays of theirs.
        carry: ours.
        xs: `(T, B, I)`.
        tolerance: of the relative distance.
    """

    def ours(tensors, carry, xs):
        cell, params = read(tensors)
        return jaxrnn.unroll(cell, params, xs, carry=carry)

    with at_ease():
        made = jax.eval_shape(theirs, tensors, carry, xs)
        cotangents = jax.tree.leaves(like(made, seed=7))
        expected = gradients(theirs, cotangents, tensors, carry, xs)
    same(expected, gradients(ours, cotangents, tensors, carry, xs), tolerance)


def bits(tree):
    """The bytes of each array of a tree; of a cell in it what it prints."""
    leaves = jax.tree.leaves(tree)
    return [repr(x) if isinstance(x, Part) else np.asarray(x).tobytes() for x in leaves]
