"""The LSTM by cuDNN, whose kernels run all steps of the forward and of the backward pass."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import rnn

from jaxrnn import check, tree
from jaxrnn.expression import Expression, name_of
from jaxrnn.loops import backend
from jaxrnn.loops.forward_mode import explain_forward_mode
from jaxrnn.loops.scan import scan
from jaxrnn.transforms.masking import MaskedCell
from jaxrnn.types import Carry, Params, PyTree, Step, StepResult

INSTEAD = "or a loop such as jaxrnn.bptt"


class ValidSteps(NamedTuple):
    """The valid steps of each row, which have to follow one another.

    Fields:
        mask: `(T, B)`, where steps are valid.
        first: `(B)`, the first of them.
        lengths: `(B)`, their number.
        has_gap: `(B)`, whether they do not follow one another.
    """

    mask: jax.Array
    first: jax.Array
    lengths: jax.Array
    has_gap: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class cudnn(Expression):
    """A Loop that runs the LSTM by cuDNN, on an NVIDIA GPU.

    The step is `jaxrnn.lstm(H)` in float32, also with a mask or lengths in `unroll`, in reverse,
    and as a part of a network. Any other step, and an LSTM with resets or noise, is refused.
    JAX hands cuDNN batch-major arrays, so inputs and outputs are transposed.

    The valid steps of a row have to follow one another, as those of `lengths` do. A mask with a gap
    is refused; if the mask is traced, as under `jit`, the results of a row with a gap are NaN.

    Products take TF32 unless `jax_default_matmul_precision` is "highest" or "float32".

    Raises:
        TypeError, ValueError: while tracing, for a step, a dtype, a mask or a device that does not
            fit, and under `vmap`. The message names a loop that fits.

    Gradient: exact, of first order, by cuDNN. No forward mode. Memory: what cuDNN keeps, which
    depends on its version, and the transposed inputs and outputs.

    Source: `jax.experimental.rnn`; J. Appleyard, T. Kočiský, P. Blunsom, "Optimizing performance of
    recurrent neural networks on GPUs", arXiv:1604.01946.
    """

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the step over time; see `jaxrnn.Loop`."""
        params, carry = tree.checked_arguments(step, params, carry, xs)
        _require_lstm(step)
        _require_float32(params=params, carry=carry, xs=xs)
        _require_platform()
        if 0 in jax.tree.leaves(xs)[0].shape[:-1]:  # no steps, or no rows
            return scan(step, params, carry, xs)
        if isinstance(step, MaskedCell):
            _require_no_gap(xs.mask)
        with explain_forward_mode("cudnn"), _explain_unsupported():
            return _compiled(step, params, carry, xs)


@contextlib.contextmanager
def _explain_unsupported() -> Iterator[None]:
    """Turns JAX's errors into ones that name the remedy."""
    try:
        yield
    except NotImplementedError as error:
        is_of_vmap, is_narrow = (text in str(error) for text in ("Batching rule", "bfloat16"))
        expected = f"batch axes of the inputs, {INSTEAD}"
        check.require(not is_of_vmap, "loop", "cudnn() under vmap", expected, TypeError)
        expected = f"None, 'high' or 'highest' for cudnn(), {INSTEAD}"
        check.require(not is_narrow, "jax_default_matmul_precision", "bfloat16", expected)
        raise


def _require_lstm(step: Step) -> None:
    cell: Any = step.cell if isinstance(step, MaskedCell) else step
    # A subclass may compute something else.
    is_lstm = "cudnn_weights" in vars(type(cell))
    expected = f"jaxrnn.lstm without resets or noise, {INSTEAD}"
    check.require(is_lstm, "step", name_of(step), expected, TypeError)


def _require_float32(**trees: PyTree) -> None:
    for name, arrays in trees.items():
        for path, x in jax.tree.leaves_with_path(arrays):
            fits = x.dtype in (jnp.float32, jnp.bool_)  # a mask is bool
            place = name + jax.tree_util.keystr(path)
            check.require(fits, place, x, f"float32, {INSTEAD}", TypeError)


def _require_platform() -> None:
    platform = backend.platform()
    expected = f"an NVIDIA GPU, {INSTEAD}"
    check.require(platform == "gpu", "loop", f"cudnn() on {platform!r}", expected)


def _require_no_gap(mask: Any) -> None:
    """Raises an error if a mask whose values are known has a gap."""
    if not isinstance(mask, jax.core.Tracer):
        expected = f"valid steps that follow one another in each row, {INSTEAD}"
        with jax.ensure_compile_time_eval():  # a known mask may stand inside a traced function
            has_gap = jnp.any(_valid_steps(_flat_rows(mask, mask.shape[1:])).has_gap)
        check.require(not has_gap, "xs.mask", "a row with a gap", expected)


def _run(step: Any, params: Params, carry: Carry, xs: PyTree) -> StepResult:
    is_masked = isinstance(step, MaskedCell)
    cell = step.cell if is_masked else step
    inputs = tree.fill_unmasked(xs.mask, xs.xs, step.fill_value) if is_masked else xs
    batch = inputs.shape[1:-1]
    weights = cell.cudnn_weights(params)
    rows = math.prod(batch)
    h, c = (jnp.reshape(x, (rows, -1)) for x in carry)
    inputs = _flat_rows(inputs, batch)
    if is_masked:
        valid = _valid_steps(_flat_rows(xs.mask, batch))
        h, c, ys = _run_valid_steps(weights, h, c, inputs, valid)
    else:
        lengths = jnp.full(rows, len(inputs), jnp.int32)
        h, c, ys = _lstm(weights, h, c, inputs, lengths)
    last = type(carry)(*(jnp.reshape(x, (*batch, -1)) for x in (h, c)))
    return last, jnp.reshape(ys, (len(ys), *batch, -1))


# A Cell does not close over traced values, so calls outside jit share one compiled program.
_compiled = jax.jit(_run, static_argnums=0)


def _flat_rows(xs: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """Joins the batch axes behind the time axis."""
    return jnp.reshape(xs, (len(xs), math.prod(batch), *xs.shape[1 + len(batch) :]))


def _valid_steps(mask: jax.Array) -> ValidSteps:
    """Returns the valid steps, from a mask `(T, B)`."""
    first = jnp.argmax(mask, axis=0).astype(jnp.int32)
    lengths = jnp.sum(mask, axis=0, dtype=jnp.int32)
    t = jax.lax.broadcasted_iota(jnp.int32, mask.shape, 0)
    is_in_run = (t >= first[None]) & (t < (first + lengths)[None])
    return ValidSteps(mask, first, lengths, jnp.any(mask != is_in_run, axis=0))


def _run_valid_steps(
    weights: jax.Array, h_0: jax.Array, c_0: jax.Array, xs: jax.Array, valid: ValidSteps
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the last h and c, and the output of each step, which is the held h where masked.

    Each row is rolled so that its valid steps come first. cuDNN runs at least one step.
    """
    steps = len(xs)
    t = jax.lax.broadcasted_iota(jnp.int32, valid.mask.shape, 0)
    rolled = _take_steps(xs, (t + valid.first[None]) % steps)
    h, c, ys = _lstm(weights, h_0, c_0, rolled, jnp.maximum(valid.lengths, 1))
    ys = _take_steps(ys, (t - valid.first[None]) % steps)
    is_empty = valid.lengths[:, None] == 0
    # A product, so that the gradient of a row with a gap is NaN too.
    factor = jnp.where(valid.has_gap[:, None], jnp.nan, 1.0).astype(h.dtype)
    h = jnp.where(is_empty, h_0, h) * factor
    c = jnp.where(is_empty, c_0, c) * factor
    held = jnp.where((t < valid.first[None])[..., None], h_0[None], h[None])
    return h, c, jnp.where(valid.mask[..., None], ys * factor[None], held)


def _take_steps(xs: jax.Array, steps: jax.Array) -> jax.Array:
    """Returns for each row the steps of these indices, `(T, B)`."""
    return jnp.take_along_axis(xs, steps[..., None], axis=0)


def _lstm(
    weights: jax.Array, h: jax.Array, c: jax.Array, xs: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the last h and c, `(B, H)`, and the outputs `(T, B, H)`."""
    sizes = xs.shape[-1], h.shape[-1]
    batch_major = jnp.swapaxes(xs, 0, 1)
    # One layer, no dropout, one direction.
    ys, hs, cs = rnn.lstm(batch_major, h[None], c[None], weights, lengths, *sizes, 1, 0.0, False)
    return hs[0], cs[0], jnp.swapaxes(ys, 0, 1)
