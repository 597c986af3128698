"""The training loop that both tasks share: its options, its progress bar, what Ctrl-C leaves."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from tqdm import tqdm

import jaxrnn
from jaxrnn.app import options as kinds
from jaxrnn.app import run
from jaxrnn.app.curve import curve
from jaxrnn.app.options import Parser, UserError
from jaxrnn.types import Carry, Loop, Params, PyTree

Loss = tuple[jax.Array, tuple[Carry, Mapping[str, jax.Array]]]  # as `jaxrnn.trainer` wants it

RECENT = 20  # steps over which the progress bar takes the mean


class Task(NamedTuple):
    """What is to be learned: all that the loop need know of it.

    Fields:
        init: `key -> params`.
        carry: the carry before the first batch; None where each batch begins anew.
        loss: `(params, carry, batch, key, loop) -> (loss, (carry, metrics))`.
        batches: one for each update, without end.
        items: how many things a batch holds.
        unit: what one of them is called.
        measure: which of the metrics to show and draw.
        title: what the picture shows.
        levels: that metric of rivals who learned nothing, by name.
    """

    init: Callable[[jax.Array], Params]
    carry: Carry
    loss: Callable[..., Loss]
    batches: Iterator[PyTree]
    items: int
    unit: str
    measure: str
    title: str
    levels: Mapping[str, float]


def add_options(parser: Parser, task: str, **defaults: Any) -> None:
    """The options of every task, with defaults of its own."""
    add = parser.add_argument
    add("--cell", type=kinds.cell_name, default="gru", help=kinds.CELL_NAMES)
    add("--hidden-size", type=kinds.whole(1), metavar="N", help="features of the carry")
    add("--loop", type=kinds.loop_name, default="bptt", help=kinds.LOOP_NAMES)
    add("--batch-size", type=kinds.whole(1), metavar="N", help="sequences in an update")
    add("--steps", type=kinds.whole(1), metavar="N", help="updates of the parameters")
    add("--learning-rate", type=kinds.positive, metavar="X", help="of AdamW, at its highest")
    add("--clip", type=kinds.positive, default=1.0, metavar="X", help="largest gradient norm")
    every = "updates from one row of the picture of the gradient to the next"
    add("--inspect-every", type=kinds.whole(1), default=100, metavar="N", help=every)
    add("--seed", type=kinds.whole(0), default=0, metavar="N", help="of all random numbers")
    add("--out", type=Path, metavar="FOLDER", help="where to save; an earlier run is replaced")
    parser.set_defaults(out=Path("runs", task), **defaults)


def optimizer(options: run.Options) -> optax.GradientTransformation:
    """AdamW on clipped gradients; its rate warms up for a twentieth of the steps, then decays."""
    peak, steps = options.learning_rate, options.steps
    rate = optax.warmup_cosine_decay_schedule(peak / 10, peak, steps // 20, steps)
    return optax.chain(optax.clip_by_global_norm(options.clip), optax.adamw(rate))


def train(task: Task, options: run.Options) -> Params:
    """Train, save the run in `options.out`, and return the parameters.

    Raises:
        KeyboardInterrupt: after Ctrl-C, saying where what there was is saved.
        UserError: if the folder cannot be written; and if the loss is no longer a number, after
            saving too, so that the history shows how it came to that.
    """
    run.prepare(options.out)
    loop = kinds.loop_named(options.loop)
    trainer = jaxrnn.trainer(functools.partial(task.loss, loop=loop), optimizer(options))

    @jax.jit
    def flow(state: jaxrnn.TrainState, batch: PyTree) -> jaxrnn.Flow:
        def loss(params: Params, loop: Loop) -> jax.Array:
            return task.loss(params, state.carry, batch, state.key, loop)[0]

        return jaxrnn.flow(loss, state.params, loop=loop)

    update = jax.jit(trainer.update)  # donates nothing, so that Ctrl-C finds the last state whole
    key_params, key = jax.random.split(jax.random.key(options.seed))
    state = trainer.init(task.init(key_params), key, task.carry)
    history: list[dict[str, int | float]] = []
    values: list[float] = []
    norms: list[jax.Array] = []
    interrupted = False
    start = time.perf_counter()
    try:
        with tqdm(total=options.steps * task.items, unit=task.unit, unit_scale=True) as bar:
            for count, batch in enumerate(itertools.islice(task.batches, options.steps)):
                if count % options.inspect_every == 0:
                    norms += flow(state, batch).norms[:1]
                state, metrics = update(state, batch)
                numbers = {name: float(metric) for name, metric in metrics.items()}
                seconds = time.perf_counter() - start
                history.append({"step": int(state.step), "seconds": seconds, **numbers})
                values.append(numbers[task.measure])
                bar.set_postfix({task.measure: f"{np.mean(values[-RECENT:]):.3f}"}, refresh=False)
                bar.update(task.items)
                if not math.isfinite(numbers["loss"]):
                    break
    except KeyboardInterrupt:
        interrupted = True
    picture = curve(task.measure, values, task.title, task.levels, norms, options.inspect_every)
    run.save(options.out, state.params, options, history, picture)
    where = f"after {state.step} of {options.steps} steps, saved in {options.out}"
    if interrupted:
        raise KeyboardInterrupt(f"interrupted {where}")
    if not math.isfinite(history[-1]["loss"]):
        raise UserError(
            f"--learning-rate: got {options.learning_rate}, which led to a loss of "
            f"{history[-1]['loss']} {where}, expected a smaller rate"
        )
    return state.params
