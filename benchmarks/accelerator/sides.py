"""The sides that are timed: our loops, `lax.scan`, Flax, cuDNN's LSTM, and PyTorch.

`scan` is `lax.scan` around a plain step, the way people write it; the Cell's own loops follow, then
the same with command buffers, that is with a whole loop launched as one CUDA graph.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from benchmarks import peers
from benchmarks.accelerator.compiler import Job
from benchmarks.problems import Problem, Program, Shape, mean_square_loss, problem

# XLA captures no loop into a CUDA graph unless asked. In XLA_FLAGS "+WHILE" adds it to what is
# captured by default; as an option of one program only the names themselves are taken, and a graph
# has five commands at least unless told otherwise, of which a loop is one.
CAPTURED = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,WHILE"
COMMAND_BUFFERS = {"xla_gpu_enable_command_buffer": CAPTURED, "xla_gpu_graph_min_graph_size": 1}
COMMAND_BUFFER_FLAGS = "--xla_gpu_enable_command_buffer=+WHILE --xla_gpu_graph_min_graph_size=1"

# Loops by the name before a colon that join these measurements as soon as LOOPS has them.
JOINING = ("fused", "cudnn")


class Absent(RuntimeError):
    """A side that does not exist here, and why."""


class Mode(NamedTuple):
    """In which numbers is computed.

    Fields:
        name: what the rows call it.
        dtype: of parameters and inputs.
        precision: of products, `jax_default_matmul_precision`.
        tf32: whether PyTorch may take TF32; JAX does in "float32" where the device has it.
    """

    name: str
    dtype: Any
    precision: str | None
    tf32: bool


MODES = (
    Mode("float32", jnp.float32, None, True),
    Mode("bfloat16", jnp.bfloat16, None, True),
    Mode("float32, highest", jnp.float32, "highest", False),
)


class Posed(NamedTuple):
    """A problem on the device, and how it is computed.

    Fields:
        problem: cell, plain step, arguments.
        mode: see Mode.
        work: "gradient" or "forward".
    """

    problem: Problem
    mode: Mode
    work: str


def pose(cell_name: str, shape: Shape, mode: Mode, work: str) -> Posed:
    """Drawn on the host, where nothing has to be compiled for the device."""
    with jax.default_device(jax.devices("cpu")[0]):
        posed = problem(cell_name, shape, mode.dtype)
    args, targets = jax.device_put((posed.args, posed.targets), jax.devices()[0])
    return Posed(posed._replace(args=args, targets=targets), mode, work)


def job(posed: Posed, run: Callable[..., Any], params: Any = None, **options: Any) -> Job:
    """Value and gradient of a mean-square loss, or all outputs, of `run(params, carry, xs)`."""
    own, carry, xs = posed.problem.args
    args = own if params is None else params, carry, xs
    if posed.work == "forward":
        return Job(lambda *args: run(*args)[1], args, posed.mode.precision, **options)
    grad = jax.value_and_grad(mean_square_loss(run), argnums=(0, 1, 2))
    return Job(grad, (*args, posed.problem.targets), posed.mode.precision, **options)


def _scan(posed: Posed, **options: Any) -> Job:
    step = posed.problem.step

    def kept(params: Any, carry: Any, x: Any) -> Any:
        # In bfloat16 the LSTM's c is float32, as ours is, and would make h so, too.
        new, y = step(params, carry, x)
        new = jax.tree.map(lambda a, b: a.astype(b.dtype), new, carry)
        return new, y.astype(x.dtype)

    return job(posed, functools.partial(jaxrnn.scan, kept), **options)


def _loop(posed: Posed, loop: Any, **options: Any) -> Job:
    return job(posed, functools.partial(loop, posed.problem.cell), **options)


def _captured(posed: Posed, make: Callable[..., Job]) -> Job:
    if jax.default_backend() != "gpu":
        raise Absent("command buffers are a GPU's")
    return make(posed, options=COMMAND_BUFFERS)


def _flax(posed: Posed) -> Job:
    if "flax" in peers.MISSING:
        raise Absent("flax is not installed")
    # A cell of Flax draws its own parameters first, which takes programs that no one has to wait
    # for a GPU's compiler to make.
    params, carry, xs = posed.problem.args
    host = jax.devices("cpu")[0]
    with jax.default_device(host):
        on_host = posed.problem._replace(args=(jax.device_put(params, host), carry, xs))
        flax = peers.peers(on_host, ("flax",))["flax"]
        params = jax.device_put(flax.params, jax.devices()[0])
    return job(posed, flax.run, params)


def _cudnn_lstm(posed: Posed) -> Job:
    """The peer as it is: batch first, one array of all weights."""
    params, carry, xs = posed.problem.args
    if posed.problem.cell_name != "lstm":
        raise Absent("jax.experimental.rnn has the LSTM alone")
    if xs.dtype != jnp.float32:
        raise Absent("jax.experimental.rnn is float32 alone")
    if jax.default_backend() != "gpu":
        raise Absent("cuDNN is a GPU's")
    from jax.experimental import rnn

    host = jax.tree.map(np.asarray, params)
    # The gates have our order, i, f, g, o; of two biases the second is zero.
    parts = host["w_x"].T, host["w_h"].T, host["b"], np.zeros_like(host["b"])
    weights = jnp.asarray(np.concatenate([part.ravel() for part in parts]))
    lengths = np.full(posed.problem.shape.B, posed.problem.shape.T, np.int32)
    sizes = posed.problem.shape.I, posed.problem.shape.H

    def run(weights: Any, carry: Any, xs: Any) -> Any:
        h, c = (state[None] for state in carry)
        ys, h, c = rnn.lstm(xs, h, c, weights, jnp.asarray(lengths), *sizes, 1, 0.0, False)
        return (h, c), ys

    def batch_first(x: Any) -> Any:
        return jnp.asarray(np.swapaxes(np.asarray(x), 0, 1))

    args = params, carry, batch_first(xs)
    turned = posed.problem._replace(args=args, targets=batch_first(posed.problem.targets))
    return job(posed._replace(problem=turned), run, weights)


SIDES: dict[str, Callable[[Posed], Job]] = {
    "scan": _scan,
    "bptt": lambda posed: _loop(posed, jaxrnn.bptt),
    **{
        name: functools.partial(_loop, loop=loop)
        for name, loop in jaxrnn.LOOPS
        if name.split(":")[0] in JOINING
    },
    "scan, command buffers": lambda posed: _captured(posed, _scan),
    "bptt, command buffers": lambda posed: _captured(
        posed, functools.partial(_loop, loop=jaxrnn.bptt)
    ),
    "flax": _flax,
    "cudnn's lstm": _cudnn_lstm,
}

# These are never left out; the others are tried on a small problem first, see speed.probe.
SAFE = ("scan", "bptt", "flax")


def torch(posed: Posed) -> Program:
    """PyTorch with the same permission to take TF32."""
    if "torch" in peers.MISSING:
        raise Absent("torch is not installed")
    import torch as library

    if jax.default_backend() == "gpu" and not library.cuda.is_available():
        raise Absent("torch sees no GPU")
    made = peers.torch(posed.problem, posed.work)
    assert made is not None

    def run() -> Any:
        library.backends.cuda.matmul.allow_tf32 = posed.mode.tf32
        library.backends.cudnn.allow_tf32 = posed.mode.tf32
        return made.run()

    return Program(run)


def outcome(name: str, posed: Posed, result: Any) -> tuple[float | None, np.ndarray]:
    """What has to be the same for all sides.

    The loss, and dL/dx at the first step; or, of the outputs, those at the last. They depend on all
    steps.
    """
    is_gradient = posed.work == "gradient"
    value = float(result[0]) if is_gradient else None
    over_time = _numbers(result[1][-1] if is_gradient else result)
    at = (slice(None), 0 if is_gradient else -1)
    return value, over_time[at if name == "cudnn's lstm" else at[::-1]]


def difference(found: tuple[Any, np.ndarray], of_scan: tuple[Any, np.ndarray]) -> float:
    """Of what two sides compute, relative, the worse of loss and numbers; NaN if one is."""
    (value, numbers), (true_value, true) = found, of_scan
    parts = [float(np.linalg.norm(numbers - true) / np.linalg.norm(true))]
    if true_value is not None:
        parts.append(abs(value - true_value) / abs(true_value))
    return float(np.max(parts))


def _numbers(x: Any) -> np.ndarray:
    """An array or a tensor, on the host, as float32."""
    if hasattr(x, "detach"):
        x = x.detach().float().cpu().numpy()
    return np.asarray(x).astype(np.float32)
