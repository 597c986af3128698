"""Arrays of a checkpoint as they are stored: copies without keys, descriptions, checksums."""

import zlib
from collections.abc import Hashable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import check
from jaxrnn.types import Array, PyTree

Template = Array | jax.ShapeDtypeStruct  # an array of a state, or what `jax.eval_shape` makes of it


def is_spread(x: Array) -> bool:
    """Whether other processes hold parts of an array that this one does not."""
    return isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)


def to_stored(x: Array) -> Array:
    """Returns a copy of an array in the memory of the host; keys become their data.

    An array that is spread over processes stays as it is, since each process writes its part.
    """
    if _is_key(x):
        x = jax.random.key_data(x)
    if is_spread(x):
        return x
    return np.array(x)  # a copy, since the next update may donate the array


def stored_type(template: Template) -> jax.ShapeDtypeStruct:
    """Returns the shape and the dtype of a stored array, and the sharding that it shall get."""
    data = template
    if _is_key(template):
        data = jax.eval_shape(jax.random.key_data, template)
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=_sharding(template))


def from_stored(x: Array, template: Template) -> Array:
    """Returns a stored array as the template is: of NumPy, or of JAX on the same devices."""
    if isinstance(template, np.ndarray):
        return x
    if _is_key(template):
        x = jax.random.wrap_key_data(jnp.asarray(x), impl=_key_impl(template))
    sharding = _sharding(template)
    if sharding is None:
        return jnp.asarray(x)
    return jax.device_put(x, sharding)


def checksum(x: Array) -> int | None:
    """Returns the checksum of a stored array; None if it is spread over processes."""
    if is_spread(x):
        return None
    # As bytes, since a dtype such as bfloat16 has no buffer that zlib could read.
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def require_same_checksums(got: list[int | None], expected: list[int | None]) -> None:
    """Raises a ValueError unless all checksums that are known on both sides are the same."""
    for here, there in zip(got, expected, strict=True):
        fits = here == there or here is None or there is None
        check.require(fits, "checksum", here, str(there))


def parse_description(text: str) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype that `check.describe` describes, such as `float32[3,4]`."""
    dtype, _, shape = text.removesuffix("]").partition("[")
    return jax.ShapeDtypeStruct([int(n) for n in shape.split(",") if n], np.dtype(dtype))


def describe_nodes(tree: PyTree, name: str) -> dict[str, str]:
    """Returns the type of each node of a tree, and dtype and shape of each leaf, by its path."""
    # All nodes but the root count as leaves, so these are the children of the root.
    children = jax.tree.leaves_with_path(tree, is_leaf=lambda node: node is not tree)
    if children and children[0][1] is tree:  # a leaf is its own only leaf
        return {name: check.describe(tree)}
    nodes = {name: type(tree).__name__}
    for path, child in children:
        nodes |= describe_nodes(child, name + jax.tree_util.keystr(path))
    return nodes


def require_same_nodes(got: dict[str, str], expected: dict[str, str], place: str) -> None:
    """Raises a ValueError that names the first node in which two trees differ."""
    for name in [*expected, *got]:
        here = got.get(name, "nothing")
        there = expected.get(name, "nothing")
        check.require(here == there, name, f"{here} in {place}", there)


def _is_key(x: Template) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_impl(template: Template) -> Hashable:
    """Returns the name of the generator of a key, or of the struct of one."""
    # `key_impl` takes keys, traced ones too, but no structs; `eval_shape` makes a key of a struct.
    found: list[Hashable] = []

    def record(key: jax.Array) -> None:
        found.append(jax.random.key_impl(key))

    jax.eval_shape(record, template)
    return found[0]


def _sharding(template: Template) -> jax.sharding.Sharding | None:
    """Returns the sharding that a template demands; None if JAX may choose the devices."""
    is_committed = getattr(template, "committed", True)  # a struct says what it demands
    if not is_committed:
        return None
    return getattr(template, "sharding", None)
