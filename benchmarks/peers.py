"""The same networks in other libraries, each with its own cell and loop and with our parameters.

A peer exists if it is installed and has the cell with the same equations. Equinox has no Elman
cell, Haiku's Elman cell has a relu, and Haiku's GRU has the reset before the product. The GRU of
nnx lacks the bias b_n, which starts at zero.
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
        params: our parameters, converted to the library.
        run: the library's loop, `(params, carry, xs) -> (carry, ys)`, with our carry.
        step: the library's cell as a plain Step, with our carry.
    """

    params: Any
    run: Callable[..., Any]
    step: jaxrnn.Step


def peers(
    problem: Problem, names: Collection[str] = ("flax", "equinox", "haiku")
) -> dict[str, Peer]:
    """Returns the named peers that are installed and have the cell."""
    makers = {"flax": _flax, "equinox": _equinox, "haiku": _haiku}
    installed = [name for name in names if name not in MISSING]
    peers = {name: makers[name](problem) for name in installed}
    return {name: peer for name, peer in peers.items() if peer is not None}


def _flax(problem: Problem) -> Peer:
    """`nnx.RNN`, time-major; the LSTM is the one with a single product for all gates."""
    from flax import nnx

    params, _, xs = problem.args
    makers = {"elman": nnx.SimpleCell, "gru": nnx.GRUCell, "lstm": nnx.OptimizedLSTMCell}
    sizes = xs.shape[-1], problem.shape.H
    cell = makers[problem.cell_name](*sizes, dtype=xs.dtype, rngs=nnx.Rngs(0))
    # Flax draws an orthogonal matrix first, which it cannot compute in bfloat16.
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    nnx.update(cell, jaxrnn.interop.flax.write(problem.cell, wide, nnx.state(cell)))
    form, state, rest = nnx.split(nnx.RNN(cell, time_major=True, return_carry=True), nnx.Param, ...)
    state = jax.tree.map(lambda p: p.astype(xs.dtype), state)

    def run(state: Any, carry: Any, xs: Any) -> Any:
        # Flax keeps the whole carry in the dtype of the computation; our LSTM's c may be wider.
        carry = jax.tree.map(lambda c: c.astype(xs.dtype), _to_flax(carry))
        last, ys = nnx.merge(form, state, rest)(xs, initial_carry=carry)
        return _from_flax(last), ys

    def step(state: Any, carry: Any, x: Any) -> Any:
        last, y = nnx.merge(form, state, rest).cell(_to_flax(carry), x)
        return _from_flax(last), y

    return Peer(state, run, step)


def _to_flax(carry: Any) -> Any:
    """Converts a carry: Flax has (c, h) where we have (h, c)."""
    return (carry.c, carry.h) if isinstance(carry, tuple) else carry


def _from_flax(carry: Any) -> Any:
    return jaxrnn.LSTMCarry(*carry[::-1]) if isinstance(carry, tuple) else carry


def _equinox(problem: Problem) -> Peer | None:
    """The usual way with Equinox: `lax.scan` over a vmapped cell."""
    import equinox

    if problem.cell_name == "elman":
        return None
    params, _, xs = problem.args
    make = {"gru": equinox.nn.GRUCell, "lstm": equinox.nn.LSTMCell}[problem.cell_name]
    like = make(xs.shape[-1], problem.shape.H, key=jax.random.key(0))
    cell = jaxrnn.interop.equinox.write(problem.cell, params, like)
    arrays, static = equinox.partition(cell, equinox.is_array)

    def step(arrays: Any, carry: Any, x: Any) -> Any:
        carry = jax.vmap(equinox.combine(arrays, static))(x, carry)
        if problem.cell_name == "lstm":
            carry = jaxrnn.LSTMCarry(*carry)
            return carry, carry.h
        return carry, carry

    return Peer(arrays, lambda p, carry, xs: jaxrnn.scan(step, p, carry, xs), step)


def _haiku(problem: Problem) -> Peer | None:
    """`hk.dynamic_unroll`; Haiku adds 1 to the forget gate at every step."""
    import haiku

    if problem.cell_name != "lstm":
        return None

    def core() -> Any:
        return haiku.LSTM(problem.shape.H, name="lstm")

    def unroll(xs: Any, carry: Any) -> Any:
        ys, last = haiku.dynamic_unroll(core(), xs, haiku.LSTMState(*carry))
        return jaxrnn.LSTMCarry(*last), ys

    def single_step(x: Any, carry: Any) -> Any:
        y, last = core()(x, haiku.LSTMState(*carry))
        return jaxrnn.LSTMCarry(*last), y

    whole, single = (haiku.without_apply_rng(haiku.transform(f)) for f in (unroll, single_step))
    _, carry, xs = problem.args
    like = whole.init(jax.random.key(0), xs, carry)
    return Peer(
        jaxrnn.interop.haiku.write(problem.cell, problem.args[0], like),
        lambda p, carry, xs: whole.apply(p, xs, carry),
        lambda p, carry, x: single.apply(p, x, carry),
    )


def torch_settings() -> dict[str, Any]:
    """Returns the number of threads, and whether PyTorch uses oneDNN or cuDNN."""
    if "torch" in MISSING:
        return {}
    import torch

    return {
        "threads": torch.get_num_threads(),
        "oneDNN": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "cuDNN": torch.backends.cudnn.is_available(),
    }


def torch(problem: Problem, work: str) -> Program | None:
    """`nn.RNN`, `nn.GRU`, `nn.LSTM`: on a CPU with oneDNN, on a GPU with cuDNN."""
    if "torch" in MISSING:
        return None
    import torch

    params, carry, xs = problem.args
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[xs.dtype.name]

    def tensor(x: Any, gradient: bool = True) -> Any:
        wide = np.asarray(x).astype(np.float32)  # NumPy has no bfloat16
        return torch.tensor(wide, device=device, dtype=dtype, requires_grad=gradient)

    make = {"elman": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[problem.cell_name]
    module = make(problem.shape.I, problem.shape.H, device=device)
    params = jax.tree.map(lambda p: np.asarray(p).astype(np.float32), params)
    module.load_state_dict(jaxrnn.interop.torch.write(problem.cell, params, module))
    # Only in this mode does cuDNN keep nothing for the backward pass.
    module.to(dtype).train(work == "gradient")
    first = [tensor(c[None]) for c in jax.tree.leaves(carry)]
    inputs, targets = tensor(xs if work != "streamed" else xs[:1]), tensor(problem.targets, False)
    arguments = [*module.parameters(), *first, inputs]

    def outputs() -> Any:
        return module(inputs, tuple(first) if len(first) > 1 else first[0])[0]

    def gradient() -> Any:
        loss = ((outputs() - targets) ** 2).mean()
        grads = torch.autograd.grad(loss, arguments)
        return _synchronise(torch, (loss.detach(), grads))

    def forward() -> Any:
        with torch.no_grad():
            return _synchronise(torch, outputs())

    return Program(gradient if work == "gradient" else forward)


def _synchronise(torch: Any, result: Any) -> Any:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result
