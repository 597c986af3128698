"""The network for series: its loss over windows, and its forecasts in the units of the file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from jaxrnn import check
from jaxrnn.cli import options, training
from jaxrnn.cli import series_windows as prepare
from jaxrnn.cli.series_heads import HEADS, Head, center
from jaxrnn.cli.series_windows import Panel, Part, Setup, Windows
from jaxrnn.types import Array, Carry, Key, Loop, Network, Params

SCORED_AT_ONCE = 256  # windows


def series_model(
    cell_name: str,
    hidden_size: int,
    horizon: int,
    output: str,
    layers: int = 1,
    dropout_rate: float = 0.0,
) -> Network:
    """Returns the network cells -> linear, with K outputs for each of H steps ahead."""
    parts = options.recurrent_layers(cell_name, hidden_size, layers, dropout_rate)
    return jaxrnn.stacked(*parts, jaxrnn.linear(horizon * len(HEADS[output].columns)))


def window_loss(
    model: Network,
    head: Head,
    params: Params,
    carry: Carry,
    batch: Windows,
    loop: Loop = jaxrnn.bptt,
    key: Key | None = None,
) -> training.Loss:
    """Returns the weighted mean of the losses over windows, and the mean absolute error.

    Every window starts from the zero carry, and `carry` is returned unchanged. The key draws the
    noise of a noisy model; without a key there is no noise.
    """
    lengths = batch.lengths
    _, ys = jaxrnn.unroll(model, params, batch.inputs, lengths=lengths, loop=loop, key=key)
    numbers = _decode(head, ys, batch.targets.shape[-1])
    loss = jnp.mean(batch.weights * head.loss(numbers, batch.targets))
    error = jnp.abs(center(head, numbers) - batch.targets) * batch.scales[:, None]
    return loss, (carry, {"error": jnp.mean(batch.weights * error)})


def _decode(head: Head, ys: Array, horizon: int) -> Array:
    """Returns the numbers of the head `(..., H, K)` from outputs `(..., H·K)`."""
    return head.decode(ys.reshape(*ys.shape[:-1], horizon, len(head.columns)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _last_numbers(
    model: Network, head: Head, horizon: int, params: Params, xs: jax.Array, lengths: jax.Array
) -> Array:
    carry, _ = jaxrnn.unroll(model, params, xs, lengths=lengths)
    return _decode(head, model.output(params, carry), horizon)


def require_fits(network: Network, params: Params, head: Head, setup: Setup) -> None:
    """Raises a ValueError unless a network reads and outputs what a setup says."""
    xs = jax.ShapeDtypeStruct((1, 1, prepare.input_size(setup)), np.float32)
    ys = jax.eval_shape(lambda p, x: jaxrnn.unroll(network, p, x)[1], params, xs)
    wanted = (1, 1, setup.horizon * len(head.columns))
    got = check.describe(ys)
    expected = f"outputs {wanted}"
    check.require(getattr(ys, "shape", None) == wanted, repr(network), got, expected)


def predict(
    model: Network, params: Params, head: Head, panel: Panel, origins: np.ndarray, setup: Setup
) -> np.ndarray:
    """Returns the forecasts after origins `(N,)`, `(N, H, K)`, in units of the targets."""
    part = Part(origins, panel.starts[1:])
    results = []
    for start in range(0, len(origins), SCORED_AT_ONCE):
        chosen = origins[start : start + SCORED_AT_ONCE]
        padded = np.resize(chosen, min(SCORED_AT_ONCE, len(origins)))  # of one shape, for one jit
        batch = prepare.windows(panel, part, padded, setup)
        numbers = _last_numbers(model, head, setup.horizon, params, batch.inputs, batch.lengths)
        results.append(np.asarray(numbers)[: len(chosen)])
    return np.concatenate(results)


def restore(
    panel: Panel, setup: Setup, origins: np.ndarray, head: Head, numbers: np.ndarray
) -> np.ndarray:
    """Returns forecasts `(N, H, K)` in the units of the file."""
    return head.restore(numbers, *scales(panel, setup, origins))


def scales(panel: Panel, setup: Setup, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns unit and offset `(N, H)`: a value of the file is unit * target + offset."""
    series = panel.series_of(origins)
    deviations = panel.deviations[series][:, None]
    offset = prepare.baseline(panel, origins, setup) * deviations + panel.means[series][:, None]
    return np.broadcast_to(setup.spread * deviations, offset.shape), offset
