"""The same networks in other libraries: each hands our parameters to its own cell and its own loop.

A peer is there if it is installed and has the cell with the same equations. Equinox has no Elman
cell, Haiku's is relu, and Haiku's GRU is the one with the reset before the product; nnx's GRU lacks
the bias b_n, which starts at zero.
"""

import importlib.util
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from benchmarks.problems import Problem, Program

MISSING = [
    name for name in ("flax", "equinox", "haiku", "torch") if importlib.util.find_spec(name) is None
]


class Peer(NamedTuple):
    """A network of another JAX library.

    Fields:
        params: ours, in its form.
        run: its own way through time, `(params, carry, xs) -> (carry, ys)`; the carry is ours.
        step: its cell as a plain Step.
    """

    params: Any
    run: Callable[..., Any]
    step: jaxrnn.Step


def peers(posed: Problem, names: Collection[str] = ("flax", "equinox", "haiku")) -> dict[str, Peer]:
    """Of those named all that are installed and have the cell."""
    makes = {"flax": _flax, "equinox": _equinox, "haiku": _haiku}
    there = [name for name in names if name not in MISSING]
    made = {name: makes[name](posed) for name in there}
    return {name: peer for name, peer in made.items() if peer is not None}


def _flax(posed: Problem) -> Peer:
    """`nnx.RNN`, time first; its LSTM is the one with a single product for all gates."""
    from flax import nnx

    params, _, xs = posed.args
    makes = {"elman": nnx.SimpleCell, "gru": nnx.GRUCell, "lstm": nnx.OptimizedLSTMCell}
    sizes = xs.shape[-1], posed.shape.H
    cell = makes[posed.cell_name](*sizes, dtype=xs.dtype, rngs=nnx.Rngs(0))
    # It starts from an orthogonal matrix, which is not to be had in bfloat16.
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    nnx.update(cell, jaxrnn.interop.flax.write(posed.cell, wide, nnx.state(cell)))
    form, state, rest = nnx.split(nnx.RNN(cell, time_major=True, return_carry=True), nnx.Param, ...)
    state = jax.tree.map(lambda p: p.astype(xs.dtype), state)

    def run(state: Any, carry: Any, xs: Any) -> Any:
        # Flax keeps the whole carry in the dtype that it computes in; our LSTM's c may be wider.
        carry = jax.tree.map(lambda c: c.astype(xs.dtype), _theirs(carry))
        last, ys = nnx.merge(form, state, rest)(xs, initial_carry=carry)
        return _ours(last), ys

    def step(state: Any, carry: Any, x: Any) -> Any:
        last, y = nnx.merge(form, state, rest).cell(_theirs(carry), x)
        return _ours(last), y

    return Peer(state, run, step)


def _theirs(carry: Any) -> Any:
    """Flax has (c, h) where we have (h, c)."""
    return (carry.c, carry.h) if isinstance(carry, tuple) else carry


def _ours(carry: Any) -> Any:
    return jaxrnn.LSTMCarry(*carry[::-1]) if isinstance(carry, tuple) else carry


def _equinox(posed: Problem) -> Peer | None:
    """The idiom: `lax.scan` over a vmapped cell."""
    import equinox

    if posed.cell_name == "elman":
        return None
    params, _, xs = posed.args
    make = {"gru": equinox.nn.GRUCell, "lstm": equinox.nn.LSTMCell}[posed.cell_name]
    like = make(xs.shape[-1], posed.shape.H, key=jax.random.key(0))
    cell = jaxrnn.interop.equinox.write(posed.cell, params, like)
    arrays, static = equinox.partition(cell, equinox.is_array)

    def step(arrays: Any, carry: Any, x: Any) -> Any:
        carry = jax.vmap(equinox.combine(arrays, static))(x, carry)
        if posed.cell_name == "lstm":
            carry = jaxrnn.LSTMCarry(*carry)
            return carry, carry.h
        return carry, carry

    return Peer(arrays, lambda p, carry, xs: jaxrnn.scan(step, p, carry, xs), step)


def _haiku(posed: Problem) -> Peer | None:
    """`hk.dynamic_unroll`; 1 is added to its forget gate at every step."""
    import haiku

    if posed.cell_name != "lstm":
        return None

    def core() -> Any:
        return haiku.LSTM(posed.shape.H, name="lstm")

    def unroll(xs: Any, carry: Any) -> Any:
        ys, last = haiku.dynamic_unroll(core(), xs, haiku.LSTMState(*carry))
        return jaxrnn.LSTMCarry(*last), ys

    def once(x: Any, carry: Any) -> Any:
        y, last = core()(x, haiku.LSTMState(*carry))
        return jaxrnn.LSTMCarry(*last), y

    whole, single = (haiku.without_apply_rng(haiku.transform(f)) for f in (unroll, once))
    _, carry, xs = posed.args
    like = whole.init(jax.random.key(0), xs, carry)
    return Peer(
        jaxrnn.interop.haiku.write(posed.cell, posed.args[0], like),
        lambda p, carry, xs: whole.apply(p, xs, carry),
        lambda p, carry, x: single.apply(p, x, carry),
    )


def torch_settings() -> dict[str, Any]:
    """Threads, and whether oneDNN or cuDNN does the work."""
    if "torch" in MISSING:
        return {}
    import torch

    return {
        "threads": torch.get_num_threads(),
        "oneDNN": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "cuDNN": torch.backends.cudnn.is_available(),
    }


def torch(posed: Problem, work: str) -> Program | None:
    """`nn.RNN`, `nn.GRU`, `nn.LSTM`: on a CPU with oneDNN, on a GPU with cuDNN."""
    if "torch" in MISSING:
        return None
    import torch

    params, carry, xs = posed.args
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[xs.dtype.name]

    def tensor(x: Any, gradient: bool = True) -> Any:
        wide = np.asarray(x).astype(np.float32)  # NumPy has no bfloat16
        return torch.tensor(wide, device=device, dtype=dtype, requires_grad=gradient)

    make = {"elman": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[posed.cell_name]
    module = make(posed.shape.I, posed.shape.H, device=device)
    params = jax.tree.map(lambda p: np.asarray(p).astype(np.float32), params)
    module.load_state_dict(jaxrnn.interop.torch.write(posed.cell, params, module))
    # Without gradients cuDNN keeps nothing for the backward pass only where this is said, too.
    module.to(dtype).train(work == "gradient")
    first = [tensor(c[None]) for c in jax.tree.leaves(carry)]
    inputs, targets = tensor(xs if work != "streamed" else xs[:1]), tensor(posed.targets, False)
    wanted = [*module.parameters(), *first, inputs]

    def outputs() -> Any:
        return module(inputs, tuple(first) if len(first) > 1 else first[0])[0]

    def gradient() -> Any:
        loss = ((outputs() - targets) ** 2).mean()
        grads = torch.autograd.grad(loss, wanted)
        return _synchronised(torch, (loss.detach(), grads))

    def alone() -> Any:
        with torch.no_grad():
            return _synchronised(torch, outputs())

    return Program(gradient if work == "gradient" else alone)


def _synchronised(torch: Any, result: Any) -> Any:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result
