"""What does a step of an online algorithm cost, beside braintrace's D-RTRL and backpropagation?

One call over T steps of a mean squared error: gradient and new state. MiB is what an algorithm
keeps of the past from step to step; of backpropagation, its temporary memory. braintrace computes
the gradient of its own cell: its `D_RTRL` is exact for elementwise recurrences, and ignores the
paths through other units in dense cells, as `eprop` does. `snap` follows the diagonal of h W too.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxrnn
from benchmarks import compare
from benchmarks.problems import Program, Shape, compiled
from jaxrnn import online

TITLE = "The gradient of all steps of one call, by online algorithms."
CELLS: dict[str, Callable[[int], jaxrnn.Cell]] = {
    "min_gru": jaxrnn.min_gru,
    "lru": jaxrnn.lru,
    "lstm": jaxrnn.lstm,
}
LEARNERS: dict[str, dict[str, Callable[..., online.Learner]]] = {
    "elementwise": {"rtrl": online.rtrl},
    "dense": {"snap": online.snap, "eprop": online.eprop},
}
SHAPES = tuple(Shape(64, rows, size, size) for size in (64, 256) for rows in (1, 16))
QUICK_SHAPES = (Shape(8, 2, 8, 8),)
HAS_PEER = importlib.util.find_spec("braintrace") is not None


class Kind:
    """The rows of the elementwise or of the dense cells, as a module of rows."""

    def __init__(self, kind: str) -> None:
        """Takes "elementwise" or "dense"."""
        self.kind = kind
        algorithms = LEARNERS[kind]
        pairs = [(algorithm, of) for algorithm in algorithms for of in ("bptt", "braintrace")]
        pairs = [(side, of) for side, of in pairs if of == "bptt" or HAS_PEER]
        question = compare.Question(TITLE, lambda problem: {}, None, pairs=tuple(pairs))
        self.summary = functools.partial(compare.summary, question)
        self.table = functools.partial(compare.table, question)

    def rows(self, quick: bool) -> list[tuple[str, str, Shape]]:
        """Returns the arguments of all rows."""
        names = ("lstm",) if self.kind == "dense" else ("min_gru", "lru")
        return [(self.kind, name, s) for name in names for s in (QUICK_SHAPES if quick else SHAPES)]

    @staticmethod
    def measure(kind: str, name: str, shape: Shape, seconds: float = 2.0) -> dict[str, Any]:
        """Returns one row: milliseconds and bytes of all sides."""
        row = compare.measure_sides(sides(kind, name, shape), None, seconds)
        return {"cell": name, "shape": shape._asdict()} | row


def sides(kind: str, name: str, shape: Shape) -> dict[str, Program]:
    """Returns the programs of all sides."""
    cell = CELLS[name](shape.H)
    params = cell.init(jax.random.key(0), shape.I)
    carry = cell.initial_carry((shape.B,))
    xs = jax.random.normal(jax.random.key(1), (shape.T, shape.B, shape.I))
    targets = jax.random.normal(jax.random.key(2), (shape.T, shape.B, shape.H))

    def step(params: Any, carry: Any, x: Any) -> Any:
        carry, y = cell(params, carry, x[0])
        return carry, jnp.mean((y - x[1]) ** 2, axis=-1)

    def backpropagation(params: Any, carry: Any, inputs: Any) -> Any:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            last, losses = jaxrnn.bptt(step, params, carry, inputs)
            return jnp.mean(losses), last

        return jax.value_and_grad(loss, has_aux=True)(params)

    found = {"bptt": compiled(backpropagation, params, carry, (xs, targets))}
    for algorithm, learner in LEARNERS[kind].items():
        found[algorithm] = _ours(learner(step), params, carry, (xs, targets))
    if HAS_PEER:
        found["braintrace"] = _braintrace(name, shape, xs, targets)
    return found


def _ours(learner: online.Learner, params: Any, carry: Any, inputs: Any) -> Program:
    # A copy, since the state is donated.
    states = [jax.tree.map(jnp.copy, learner.init(params, carry, inputs))]
    kept = sum(a.nbytes for a in jax.tree.leaves(states[0].influence))
    update = jax.jit(learner.update, donate_argnums=1).lower(params, states[0], inputs).compile()

    def run() -> Any:
        grads, states[0], _ = update(params, states[0], inputs)
        return grads

    return Program(run, kept)


def _braintrace(name: str, shape: Shape, xs: jax.Array, targets: jax.Array) -> Program:
    import brainstate
    import braintrace

    cells = {
        "min_gru": braintrace.nn.MiniGRU,
        "lru": braintrace.nn.LRUCell,
        "lstm": braintrace.nn.LSTMCell,
    }
    model = cells[name](shape.I, shape.H)
    learner = braintrace.compile(model, braintrace.D_RTRL, xs[0], batch_size=shape.B)
    traces = [s.value for s in learner.states().values() if "Trace" in type(s).__name__]
    kept = sum(a.nbytes for a in jax.tree.leaves(traces))

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean((learner(x) - y) ** 2)

    gradient = brainstate.transform.jit(
        lambda xs, targets: learner.etrace_grad(xs, targets, step_fn=loss)
    )
    return Program(lambda: gradient(xs, targets), kept)
