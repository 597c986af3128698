"""StableHLO: a network as programs that JAX runs without jaxrnn, on CPU, CUDA and TPU.

`jax.export` writes them, which needs the package flatbuffers.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.interop.expressions import input_size_of
from jaxrnn.loops import scan
from jaxrnn.sequence import unroll
from jaxrnn.types import Carry, Params, Part, PyTree

PLATFORMS = ("cpu", "cuda", "tpu")


def write(
    network: Part,
    params: Params,
    *,
    bake: bool = True,
    batch: int | None = None,
    steps: int | None = None,
) -> dict[str, "jax.export.Exported"]:
    """Returns the programs of a network by name, with open sizes of batch and time.

        start(x)            -> carry            the carry before the first step
        step(carry, x)      -> (carry, y)       one step, with x `(B, I)`, or `(B)` for tokens
        sequence(carry, xs) -> (carry, ys)      a sequence, with xs `(T, B, I)`, or `(T, B)`

    Write `program.serialize()` to a file, and run `jax.export.deserialize(content).call(...)` where
    only JAX is installed. A carry is a list of arrays. There is no noise, no mask and no reset.

    Args:
        network: a Cell or Network made by factories of jaxrnn.
        params: its parameters.
        bake: whether the params are part of the programs. Otherwise each program has one more
            argument, the first: a dict of the params by their paths, such as `0.w_h`, as in a file
            of `jaxrnn.interop.safetensors`.
        batch: B. With None, the programs run with any.
        steps: T. With None, the programs run with any.

    Returns:
        A dict of `jax.export.Exported`. A network that reads backward in time has only `start` and
        `sequence`.

    Raises:
        ValueError, TypeError: if params are not parameters of the network, or a size is no int of
            at least 1.

    Gradient: none. On a CPU the values are those of `unroll(..., carry=carry, loop=scan)` under
    `jit`: to the bit if both sizes are fixed, else within rounding, since XLA compiles open sizes
    in another way.
    """
    check.require_instance("network", network, Part)
    check.require_bool("bake", bake)
    check.require_concrete(params=params)
    size = input_size_of(network, params)
    dtype = check.float_dtype(params)
    structure = jax.tree.structure(params)
    named = tree.leaves_by_name(params)
    for name, value in (("batch", batch), ("steps", steps)):
        if value is not None:
            check.require_int(name, value, least=1)
    open_steps, open_rows = jax.export.symbolic_shape("t, b")
    rows = batch or open_rows
    x_dtype = dtype
    if not network.num_feature_axes:  # it reads tokens
        x_dtype = jnp.int32
    x = jax.ShapeDtypeStruct((rows, *network.feature_shape(size)), x_dtype)
    xs = jax.ShapeDtypeStruct((steps or open_steps, *x.shape), x_dtype)
    carry = jax.eval_shape(lambda x: network.initial_carry(x.shape[:1], dtype), x)
    carry_structure = jax.tree.structure(carry)
    leaves = jax.tree.leaves(carry)

    # Carries go in and out as lists, so that whoever reads a program needs none of our classes.
    def start(params: Params, x: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(network.initial_carry(x.shape[:1], dtype))

    def sequence(
        params: Params, carry: list[jax.Array], xs: jax.Array
    ) -> tuple[list[jax.Array], PyTree]:
        whole = jax.tree.unflatten(carry_structure, carry)
        last, ys = unroll(network, params, xs, carry=whole, loop=scan)
        return jax.tree.leaves(last), ys

    def step(
        params: Params, carry: list[jax.Array], x: jax.Array
    ) -> tuple[list[jax.Array], PyTree]:
        last, y = network(params, jax.tree.unflatten(carry_structure, carry), x)
        return jax.tree.leaves(last), y

    programs: dict[str, Any] = {
        "start": (start, (x,)),
        "step": (step, (leaves, x)),
        "sequence": (sequence, (leaves, xs)),
    }
    if not _has_step(network, params, carry, x):
        del programs["step"]
    exported = {}
    for name, (function, args) in programs.items():
        if bake:
            program = jax.jit(functools.partial(function, params))
        else:
            program = jax.jit(_by_name(function, structure, [*named]))
            types = {path: jax.typeof(param) for path, param in named.items()}
            args = (types, *args)
        exported[name] = jax.export.export(program, platforms=PLATFORMS)(*args)
    return exported


def _has_step(network: Part, params: Params, carry: Carry, x: jax.ShapeDtypeStruct) -> bool:
    """Whether a network runs step by step; not if a part of it reads backward in time."""
    try:
        jax.eval_shape(network, params, carry, x)
    except TypeError as error:
        if "bidirectional" in str(error):
            return False
        raise
    return True


def _by_name(
    function: Callable[..., PyTree], structure: jax.tree_util.PyTreeDef, names: list[str]
) -> Callable[..., PyTree]:
    """Returns a function that takes params as a dict by name."""

    def program(params: dict[str, jax.Array], *args: PyTree) -> PyTree:
        return function(jax.tree.unflatten(structure, [params[name] for name in names]), *args)

    return program
