"""The training loop that both tasks share: its options, its progress bar, what Ctrl-C leaves.

A run leaves a picture too: its metric over the steps, beside rivals who learned nothing.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from tqdm import tqdm

import jaxrnn
from jaxrnn import check, pictures
from jaxrnn.app import options, run
from jaxrnn.types import Carry, Loop, Params, PyTree

Loss = tuple[jax.Array, tuple[Carry, Mapping[str, jax.Array]]]  # as `jaxrnn.trainer` wants it

RECENT = 20  # steps over which the progress bar takes the mean
WINDOWS = 100  # the curve is a running mean over so small a part of the steps


class Task(NamedTuple):
    """What is to be learned: all that the loop need know of it.

    Fields:
        init: `key -> params`.
        loss: `(params, carry, batch, key, loop) -> (loss, (carry, metrics))`.
        batches: one for each update, without end.
        rows: the axis of rows in each part of a batch, None where there is none.
        items: how many things a batch holds.
        unit: what one of them is called.
        measure: which of the metrics to show and draw.
        levels: that metric of rivals who learned nothing, by name.
        carry: the carry before the first batch; None where each batch begins anew.
    """

    init: Callable[[jax.Array], Params]
    loss: Callable[..., Loss]
    batches: Iterator[PyTree]
    rows: PyTree
    items: int
    unit: str
    measure: str
    levels: Mapping[str, float]
    carry: Carry = None


def add_options(parser: options.Parser, task: str, **defaults: Any) -> None:
    """The options of every task, with defaults of its own."""
    add, count = parser.add_argument, options.whole(1)
    add("--cell", type=options.cell_name, default="gru", help=options.CELL_NAMES)
    add("--hidden-size", type=count, metavar="N", help="features of the carry")
    add("--loop", type=options.loop_name, default="bptt", help=options.LOOP_NAMES)
    add("--batch-size", type=count, metavar="N", help="sequences in an update")
    add("--steps", type=count, metavar="N", help="updates of the parameters")
    add("--learning-rate", type=options.positive, metavar="X", help="of AdamW, at its highest")
    add("--clip", type=options.positive, default=1.0, metavar="X", help="largest gradient norm")
    every = "updates from one row of the picture of the gradient to the next"
    add("--inspect-every", type=count, default=100, metavar="N", help=every)
    add("--seed", type=options.whole(0), default=0, metavar="N", help="of all random numbers")
    add("--devices", type=count, default=options.CORES, metavar="N", help="that share each batch")
    add("--out", type=Path, metavar="FOLDER", help="where to save; an earlier run is replaced")
    parser.set_defaults(out=Path("runs", task), **defaults)


def optimizer(chosen: options.Options) -> optax.GradientTransformation:
    """AdamW on clipped gradients; its rate warms up for a twentieth of the steps, then decays."""
    peak, steps = chosen.learning_rate, chosen.steps
    rate = optax.warmup_cosine_decay_schedule(peak / 10, peak, steps // 20, steps)
    return optax.chain(optax.clip_by_global_norm(chosen.clip), optax.adamw(rate))


def train(task: Task, chosen: options.Options) -> Params:
    """Train, save the run in `chosen.out`, and return the parameters.

    Raises:
        KeyboardInterrupt: after Ctrl-C, saying where what there was is saved.
        UserError: if the folder cannot be written; and if the loss is no longer a number, after
            saving too, so that the history shows how it came to that.
    """
    run.prepare(chosen.out)
    loop = options.loop_named(chosen.loop)
    devices = jax.devices()[: chosen.devices]
    sharing = np.gcd(chosen.batch_size, len(devices))
    if sharing < len(devices):
        print(f"on {sharing} of {len(devices)} devices: --batch-size is no multiple of these")
    devices = devices[:sharing]
    loss = functools.partial(task.loss, loop=loop)
    in_axes, out_axes = (None, 0, task.rows, None), (None, (0, None))
    shared = jaxrnn.data_parallel(loss, in_axes=in_axes, out_axes=out_axes, devices=devices)
    trainer = jaxrnn.trainer(shared, optimizer(chosen))

    def value(*args: PyTree, loop: Loop) -> jax.Array:
        return task.loss(*args, loop=loop)[0]

    flow = jax.jit(functools.partial(jaxrnn.flow, value, loop=loop))
    update = jax.jit(trainer.update)  # donates nothing, so that Ctrl-C finds the last state whole
    key_params, key = jax.random.split(jax.random.key(chosen.seed))
    state = trainer.init(task.init(key_params), key, task.carry)
    history: list[dict[str, int | float]] = []
    norms: list[jax.Array] = []
    interrupted = False
    start = time.perf_counter()
    try:
        with tqdm(total=chosen.steps * task.items, unit=task.unit, unit_scale=True) as bar:
            for count, batch in zip(range(chosen.steps), task.batches, strict=False):
                if count % chosen.inspect_every == 0:
                    args = state.params, state.carry, batch, state.key
                    norms += flow(*jax.device_put(args, devices[0])).norms[:1]
                state, metrics = update(state, batch)
                numbers = {name: float(metric) for name, metric in metrics.items()}
                seconds = time.perf_counter() - start
                history.append({"step": int(state.step), "seconds": seconds, **numbers})
                recent = np.mean([row[task.measure] for row in history[-RECENT:]])
                bar.set_postfix({task.measure: f"{recent:.3f}"}, refresh=False)
                bar.update(task.items)
                if not np.isfinite(numbers["loss"]):
                    break
    except KeyboardInterrupt:
        interrupted = True
    title = f"Learning {chosen.task}: {chosen.cell} of {chosen.hidden_size}, {chosen.loop}"
    picture = curve(task.measure, [row[task.measure] for row in history], title, task.levels)
    if norms:
        pictures.draw_flow(picture.add_subplot(1, 2, 2), norms, f"updates / {chosen.inspect_every}")
    run.save(chosen.out, state.params, chosen, history, picture)
    where = f"after {state.step} of {chosen.steps} steps, saved in {chosen.out}"
    if interrupted:
        raise KeyboardInterrupt(f"interrupted {where}")
    end = history[-1]["loss"]
    got = f"{chosen.learning_rate}, which led to a loss of {end} {where}"
    check.that(np.isfinite(end), "--learning-rate", got, "a smaller rate", options.UserError)
    print(f"saved in {chosen.out}: {', '.join(run.FILES)}")
    return jax.device_put(state.params, devices[0])


def curve(measure: str, values: Sequence[float], title: str, levels: Mapping[str, float]) -> Figure:
    """The values of each step, smoothed, and a level line for each name, beside an empty half."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.add_subplot(1, 2, 1)
    (colour, _), *looks = zip(pictures.COLOURS, pictures.STYLES, strict=True)
    if values:
        width = max(1, len(values) // WINDOWS)
        smooth = np.convolve(values, np.full(width, 1 / width), mode="valid")
        axes.plot(np.arange(width, len(values) + 1), smooth, color=colour, label="training")
    for (name, level), (colour, style) in zip(levels.items(), looks, strict=False):
        axes.axhline(level, color=colour, linestyle=style, label=name)
    axes.set(xlabel="updates", ylabel=measure.replace("_", " "), title=title)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return figure
