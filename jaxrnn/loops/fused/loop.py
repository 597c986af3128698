"""The loop `fused`, and the scan that runs in a kernel."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxrnn import check, tree
from jaxrnn.expression import Expression
from jaxrnn.loops import backend
from jaxrnn.loops.bptt import run_with
from jaxrnn.loops.derived import jaxprs
from jaxrnn.loops.derived.jaxprs import Values
from jaxrnn.loops.forward_mode import explain_forward_mode
from jaxrnn.loops.fused import body as bodies
from jaxrnn.loops.fused.body import Arrays
from jaxrnn.loops.fused.kernel import ScanKernel
from jaxrnn.loops.scans import Body
from jaxrnn.types import Carry, Params, PyTree, Step, StepResult


@dataclasses.dataclass(frozen=True, repr=False)
class fused(Expression):
    """A Loop that runs the recurrence of `bptt` with each of its two loops as one kernel.

    The kernels call the functions `advance` and `adjoint` of the Cell itself, so masks, resets,
    noise and other transformations are part of them. The recurrent weights are brought on chip
    once, for all steps, and the carry stays there. The projections z_t stream in, and what the
    backward pass saves streams out. The gradient of each weight is one matrix product afterwards.
    For a step without a hand-written backward pass, both loops are derived as in `bptt`.

    It runs on a TPU, and on an NVIDIA GPU of the Hopper generation with JAX 0.11.2 or newer. On
    several, it runs inside `jaxrnn.training.data_parallel` or a `jax.shard_map`, since a kernel is
    not divided automatically. The kernels are compiled for a v5e and an H100, and tested by JAX's
    interpreters. They have run on neither yet, so nothing is known about their speed.

    On a GPU the weights have to fit on one multiprocessor: in float32, those of 256 units of an
    Elman cell, and of 128 units of a GRU or an LSTM. Products are sums of float32, without TF32. A
    step may have elementwise operations, sums over all features, and products with the weights, but
    no heads and no images.

    Args:
        interpret: run the kernels on any device by JAX's interpreter, for tests; TypeError if it is
            not a bool.

    Raises:
        TypeError, ValueError: while tracing, as `bptt`; on a device that is neither; for a step
            that takes more memory than there is on chip (the message names both), or that has
            complex numbers or other operations which the compiler of the kernel does not have. The
            message names a loop that fits.

    Gradient: exact; also of higher order, by `lax.scan`. No forward mode. Time O(T), in order.
    Memory: that of the form of `bptt` that saves, and on chip the recurrent weights, the carry and
    a chunk of steps.

    Source: J. Appleyard, T. Kočiský, P. Blunsom, "Optimizing performance of recurrent neural
    networks on GPUs", arXiv:1604.01946; G. Diamos et al., "Persistent RNNs: stashing recurrent
    weights on-chip", ICML 2016.

    Examples:
        >>> cell = jaxrnn.gru(16)
        >>> params = cell.init(jax.random.key(0), input_size=8)
        >>> loop = jaxrnn.fused(interpret=True)
        >>> _, ys = jaxrnn.unroll(cell, params, jnp.ones((5, 4, 8)), loop=loop)
        >>> ys.shape
        (5, 4, 16)
    """

    interpret: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check.require_bool("interpret", self.interpret)

    def __call__(self, step: Step, params: Params, carry: Carry, xs: PyTree) -> StepResult:
        """Runs the step over time; see `jaxrnn.Loop`."""
        params, carry = tree.checked_arguments(step, params, carry, xs)
        platform = backend.platform()
        fits = platform in ("tpu", "gpu") or self.interpret
        expected = "a TPU, a GPU, fused(interpret=True), or loop=jaxrnn.bptt"
        check.require(fits, "loop", f"fused() on {platform!r}", expected)
        scan = KernelScan(self.interpret, platform)
        settings = backend.settings()._replace(scan=scan, recomputes=False)
        with explain_forward_mode("fused()"):
            return run_with(settings, step, params, carry, xs)


@dataclasses.dataclass(frozen=True)
class KernelScan:
    """A scan as one kernel; see `jaxrnn.loops.scans.Scan`.

    Fields:
        interpret: whether JAX interprets the kernel.
        platform: "gpu" for the kernel of a GPU, anything else for that of a TPU.
    """

    interpret: bool
    platform: str

    def __call__(
        self, body: Body, carry: Carry, xs: PyTree, length: int | None = None, reverse: bool = False
    ) -> StepResult:
        """Runs the kernel, and `lax.scan` where there is nothing to compute."""
        steps = check.num_steps(xs) if length is None else length
        if steps == 0 or any(0 in jnp.shape(leaf) for leaf in jax.tree.leaves((carry, xs))):
            return jax.lax.scan(body, carry, xs, length, reverse=reverse)
        traced, arrays = bodies.trace(body, carry, xs)
        _require_real(traced)
        _require_one_device(carry, xs)
        kernel = self._kernel_class()(traced, steps, reverse, self.interpret)
        if not self.interpret:
            kernel.require_room()
            kernel.require_lowering(arrays)
        last, ys = _run(kernel, arrays)
        return jax.tree.unflatten(jax.tree.structure(carry), last), traced.y_structure.unflatten(ys)

    def _kernel_class(self) -> type[ScanKernel]:
        # Imported here, since Pallas takes 0.2 s.
        if self.platform == "gpu":
            from jaxrnn.loops.fused.gpu import GpuKernel

            return GpuKernel
        from jaxrnn.loops.fused.tpu import TpuKernel

        return TpuKernel


def _require_real(body: bodies.Body) -> None:
    """Raises an error if a step computes with complex numbers or keys, which no kernel has."""
    values = [v for eqn in body.equations for v in eqn.outvars]
    for v in [*body.constants, *body.carry, *body.x, *values]:
        aval = jaxprs.aval_of(v)
        is_real = jnp.issubdtype(aval.dtype, jnp.number) or aval.dtype == jnp.bool_
        fits = is_real and not jnp.issubdtype(aval.dtype, jnp.complexfloating)
        expected = "real numbers, or loop=jaxrnn.bptt"
        check.require(fits, "step", f"{check.describe(aval)} in fused()", expected, TypeError)


def _require_one_device(carry: Carry, xs: PyTree) -> None:
    """Raises an error if an array is split over a mesh with explicit axes."""
    for leaf in jax.tree.leaves((carry, xs)):
        spec = jax.typeof(leaf).sharding.spec
        is_split = any(axis is not None for axis in spec)
        expected = "jaxrnn.training.data_parallel, a jax.shard_map, or loop=jaxrnn.bptt"
        check.require(not is_split, "loop", f"fused() of arrays split by {spec}", expected)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _run(kernel: ScanKernel, arrays: Arrays) -> tuple[Values, Values]:
    """Runs the kernel."""
    return kernel.run(arrays)


@_run.defjvp
def _derivative(
    kernel: ScanKernel, primals: tuple[Arrays], tangents: tuple[Arrays]
) -> tuple[tuple[Values, Values], tuple[Values, Values]]:
    """Differentiates `lax.scan` in the place of the kernel, for a gradient of a gradient."""
    _, tangents_out = jax.jvp(kernel.run_as_scan, primals, tangents)
    # The values are those of the kernel, since under `jax.vmap` JAX takes the batch axis of the
    # values to be the same with and without differentiation.
    return _run(kernel, *primals), tangents_out
