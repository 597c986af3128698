"""The sides that are timed: our loops, `lax.scan`, Flax, cuDNN's LSTM, and PyTorch.

`scan` is `lax.scan` with a plain step. The loops for the Cell follow, then `scan` and `bptt` with
command buffers, which launch a whole loop as one CUDA graph. `cudnn` is our loop, and "cudnn's
lstm" the function that it calls, with batch-major inputs, which need no transposition.
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
from benchmarks.problems import Problem, Program, Shape, make_problem, mean_square_loss

# By default, XLA does not capture a loop into a CUDA graph. In XLA_FLAGS, "+WHILE" adds loops to
# the default list. A compiler option of one program accepts only the full list. By default a graph
# has at least five commands, and a loop counts as one.
CAPTURED = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,WHILE"
COMMAND_BUFFERS = {"xla_gpu_enable_command_buffer": CAPTURED, "xla_gpu_graph_min_graph_size": 1}
COMMAND_BUFFER_FLAGS = "--xla_gpu_enable_command_buffer=+WHILE --xla_gpu_graph_min_graph_size=1"


class Absent(RuntimeError):
    """A side does not exist here; the message says why."""


class Mode(NamedTuple):
    """A precision of the computation.

    Fields:
        name: the name in the rows.
        dtype: the dtype of parameters and inputs.
        precision: `jax_default_matmul_precision`.
        tf32: whether PyTorch may use TF32. JAX uses it in "float32" if the device has it.
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


class Task(NamedTuple):
    """A problem on the device, and what to compute.

    Fields:
        problem: the cell, the plain step, their arguments.
        mode: the precision.
        work: "gradient" or "forward".
    """

    problem: Problem
    mode: Mode
    work: str


def make_task(cell_name: str, shape: Shape, mode: Mode, work: str) -> Task:
    """Draws a problem on the host, so that nothing has to be compiled for the device."""
    with jax.default_device(jax.devices("cpu")[0]):
        problem = make_problem(cell_name, shape, mode.dtype)
    args, targets = jax.device_put((problem.args, problem.targets), jax.devices()[0])
    return Task(problem._replace(args=args, targets=targets), mode, work)


def job(task: Task, run: Callable[..., Any], params: Any = None, **options: Any) -> Job:
    """Returns the job of value and gradient, or of all outputs, of `run(params, carry, xs)`."""
    problem_params, carry, xs = task.problem.args
    args = problem_params if params is None else params, carry, xs
    if task.work == "forward":
        return Job(lambda *args: run(*args)[1], args, task.mode.precision, **options)
    grad = jax.value_and_grad(mean_square_loss(run), argnums=(0, 1, 2))
    return Job(grad, (*args, task.problem.targets), task.mode.precision, **options)


def _scan(task: Task, **options: Any) -> Job:
    step = task.problem.step

    def keep_dtypes(params: Any, carry: Any, x: Any) -> Any:
        # In bfloat16 the LSTM's c is float32, and h would become float32 too.
        new, y = step(params, carry, x)
        new = jax.tree.map(lambda a, b: a.astype(b.dtype), new, carry)
        return new, y.astype(x.dtype)

    return job(task, functools.partial(jaxrnn.scan, keep_dtypes), **options)


def _loop(task: Task, loop: Any, **options: Any) -> Job:
    return job(task, functools.partial(loop, task.problem.cell), **options)


def _with_command_buffers(task: Task, make: Callable[..., Job]) -> Job:
    if jax.default_backend() != "gpu":
        raise Absent("only a GPU has command buffers")
    return make(task, options=COMMAND_BUFFERS)


def _flax(task: Task) -> Job:
    if "flax" in peers.MISSING:
        raise Absent("flax is not installed")
    # A cell of Flax first draws its own parameters. On the host, the programs for that are compiled
    # much faster than for a GPU.
    params, carry, xs = task.problem.args
    host = jax.devices("cpu")[0]
    with jax.default_device(host):
        on_host = task.problem._replace(args=(jax.device_put(params, host), carry, xs))
        flax = peers.peers(on_host, ("flax",))["flax"]
        params = jax.device_put(flax.params, jax.devices()[0])
    return job(task, flax.run, params)


def _fused_loop(task: Task) -> Job:
    if jax.default_backend() not in ("gpu", "tpu"):
        raise Absent("only a GPU and a TPU have kernels")
    return _loop(task, jaxrnn.fused())


def _require_cudnn(task: Task) -> None:
    if task.problem.cell_name != "lstm":
        raise Absent("jax.experimental.rnn has only the LSTM")
    if task.mode.dtype != jnp.float32:
        raise Absent("jax.experimental.rnn has only float32")
    if jax.default_backend() != "gpu":
        raise Absent("only a GPU has cuDNN")


def _cudnn_loop(task: Task) -> Job:
    _require_cudnn(task)
    return _loop(task, jaxrnn.cudnn())


def _cudnn_lstm(task: Task) -> Job:
    """Returns the job of `jax.experimental.rnn.lstm`: batch-major, with one array of weights."""
    _require_cudnn(task)
    from jax.experimental import rnn

    params, carry, xs = task.problem.args
    cell: Any = task.problem.cell
    weights = jnp.asarray(cell.cudnn_weights(jax.tree.map(np.asarray, params)))
    lengths = np.full(task.problem.shape.B, task.problem.shape.T, np.int32)
    sizes = task.problem.shape.I, task.problem.shape.H

    def run(weights: Any, carry: Any, xs: Any) -> Any:
        h, c = (state[None] for state in carry)
        ys, h, c = rnn.lstm(xs, h, c, weights, jnp.asarray(lengths), *sizes, 1, 0.0, False)
        return (h, c), ys

    def batch_major(x: Any) -> Any:
        return jnp.asarray(np.swapaxes(np.asarray(x), 0, 1))

    args = params, carry, batch_major(xs)
    problem = task.problem._replace(args=args, targets=batch_major(task.problem.targets))
    return job(task._replace(problem=problem), run, weights)


SIDES: dict[str, Callable[[Task], Job]] = {
    "scan": _scan,
    "bptt": lambda task: _loop(task, jaxrnn.bptt),
    "fused": _fused_loop,
    "scan, command buffers": lambda task: _with_command_buffers(task, _scan),
    "bptt, command buffers": lambda task: _with_command_buffers(
        task, functools.partial(_loop, loop=jaxrnn.bptt)
    ),
    "flax": _flax,
    "cudnn": _cudnn_loop,
    "cudnn's lstm": _cudnn_lstm,
}

# These are never left out. The others are first tried on a small problem, see speed.probe.
SAFE = ("scan", "bptt", "flax")


def torch(task: Task) -> Program:
    """Returns the program of PyTorch, with TF32 as in the mode."""
    if "torch" in peers.MISSING:
        raise Absent("torch is not installed")
    import torch as library

    if jax.default_backend() == "gpu" and not library.cuda.is_available():
        raise Absent("torch sees no GPU")
    program = peers.torch(task.problem, task.work)
    assert program is not None

    def run() -> Any:
        library.backends.cuda.matmul.allow_tf32 = task.mode.tf32
        library.backends.cudnn.allow_tf32 = task.mode.tf32
        return program.run()

    return Program(run)


def outcome(name: str, task: Task, result: Any) -> tuple[float | None, np.ndarray]:
    """Returns the numbers that have to be the same for all sides.

    These are the loss and dL/dx at the first step, or the outputs at the last step, since both
    depend on all steps.
    """
    is_gradient = task.work == "gradient"
    value = float(result[0]) if is_gradient else None
    over_time = _to_numpy(result[1][-1] if is_gradient else result)
    step = 0 if is_gradient else -1
    return value, over_time[:, step] if name == "cudnn's lstm" else over_time[step]


def difference(result: tuple[Any, np.ndarray], expected: tuple[Any, np.ndarray]) -> float:
    """Returns the relative difference of two outcomes, the larger of loss and array; or NaN."""
    value, numbers = result
    expected_value, expected_numbers = expected
    error = np.linalg.norm(numbers - expected_numbers) / np.linalg.norm(expected_numbers)
    differences = [float(error)]
    if expected_value is not None:
        differences.append(abs(value - expected_value) / abs(expected_value))
    return float(np.max(differences))


def _to_numpy(x: Any) -> np.ndarray:
    """Converts an array or a tensor to float32 on the host."""
    if hasattr(x, "detach"):
        x = x.detach().float().cpu().numpy()
    return np.asarray(x).astype(np.float32)
