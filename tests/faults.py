"""Plant faults one by one in a copy of the library and see what catches each.

    python tests/faults.py            # all of them
    python tests/faults.py lstm       # those whose name or file contains "lstm"

A backward fault has to turn both the certificate and the laws red, a forward fault the comparison
with NumPy. Exits 1 if any fault goes unseen. About ten seconds a fault.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Fault(NamedTuple):
    """Texts in a file of the library, what to put in their place, and where it should show."""

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    cell: str
    loop: str = "bptt"


def fault(name: str, file: str, old: str, new: str, cell: str, loop: str = "bptt") -> Fault:
    return Fault(name, file, ((old, new),), cell, loop)


ELMAN, GRU, LSTM, PARTS = (f"cells/{name}.py" for name in ("elman", "gru", "lstm", "parts"))
MGU, INDRNN, LINEAR, LRU = (f"cells/{name}.py" for name in ("mgu", "indrnn", "linear", "lru"))
MIN_GRU, MIN_LSTM = "cells/min_gru.py", "cells/min_lstm.py"
BPTT, TRUNCATED, DERIVED = (f"loops/{name}.py" for name in ("bptt", "truncated", "derived"))
SEGMENTS = "def _truncated(k1: int, loop: Loop) -> Loop:\n"
JOINED = "(delta_r, delta_z, delta_n * r)"
BEFORE = "gru_reset_before"


def moved_cut(name: str, k1: str) -> Fault:
    """Segments of another length than the loop says it has."""
    edits = ((SEGMENTS, f"{SEGMENTS}    said, k1 = k1, {k1}\n"), ("t % k1 == 0", "t % said == 0"))
    return Fault(name, TRUNCATED, edits, "elman", "truncated:4")


BACKWARD = (
    fault("sign in the slope", ELMAN, "(1 - h_t * h_t)", "(1 + h_t * h_t)", "elman"),
    fault("slope left out", ELMAN, "d_h * (1 - h_t * h_t)", "d_h * 1", "elman"),
    fault("kernel transposed", ELMAN, "delta @ w.w_h_t, delta", "delta @ w.w_h, delta", "elman"),
    fault("h_t for h_{t-1}", ELMAN, "product(hs_tm1, deltas)", "product(hs, deltas)", "elman"),
    fault("slope elsewhere", ELMAN, "saved.a)[1]", "0 * saved.a)[1]", "elman_softplus"),
    fault("sign of δ_z", GRU, "d_h * (h_tm1 - n)", "d_h * (n - h_tm1)", "gru"),
    fault("sign of δ_n", GRU, "d_h * (1 - z) *", "d_h * (z - 1) *", "gru"),
    fault("sign of δ_r", GRU, "delta_n * q * r * (1 - r)", "delta_n * q * r * (r - 1)", "gru"),
    fault("δ_r without q", GRU, "delta_n * q * r", "delta_n * r", "gru"),
    fault(
        "λ z left out",
        GRU,
        f"d_h * z + parts.join_gates{JOINED}",
        f"parts.join_gates{JOINED}",
        "gru",
    ),
    fault("δ_n without r", GRU, JOINED, "(delta_r, delta_z, delta_n)", "gru"),
    fault("gates swapped", GRU, JOINED, "(delta_z, delta_r, delta_n * r)", "gru"),
    fault(
        "h_t for h_{t-1}",
        GRU,
        "product(hs_tm1, parts.join_gates(deltas.r, deltas.z, d_q",
        "product(hs, parts.join_gates(deltas.r, deltas.z, d_q",
        "gru",
    ),
    fault("∂b_n without r", GRU, "parts.summed(d_q)", "parts.summed(deltas.n)", "gru"),
    fault(
        "kernel turned", GRU, 'params["w_h"].T, params', 'params["w_h"].T[:, ::-1], params', "gru"
    ),
    fault("u r left out", GRU, "d_h * z + u * r +", "d_h * z +", BEFORE),
    fault("sign of δ_r", GRU, "u * h_tm1 * r * (1 - r)", "u * h_tm1 * r * (r - 1)", BEFORE),
    fault("kernel transposed", GRU, "delta_n @ w.w_n_t", "delta_n @ w.w_n", BEFORE),
    fault("gather without r", GRU, "product(saved.r * hs_tm1", "product(hs_tm1", BEFORE),
    fault("sign of δ_i", LSTM, "d_c * g * i * (1 - i)", "d_c * g * i * (i - 1)", "lstm"),
    fault("sign of δ_f", LSTM, "c * f * (1 - f)", "c * f * (f - 1)", "lstm"),
    fault("sign of δ_g", LSTM, "i * (1 - g * g)", "i * (g * g - 1)", "lstm"),
    fault("sign of δ_o", LSTM, "m * o * (1 - o)", "m * o * (o - 1)", "lstm"),
    fault("c_t for c_{t-1}", LSTM, "d_c * carry_tm1.c * f", "d_c * carry_t.c * f", "lstm"),
    fault("L5 left out", LSTM, "d_carry.c + d_carry.h * o * (1 - m * m)", "d_carry.c", "lstm"),
    fault("slope of tanh(c) left out", LSTM, "o * (1 - m * m)", "o", "lstm"),
    fault("f left out of μ", LSTM, "w.w_h_t, d_c * f)", "w.w_h_t, d_c)", "lstm"),
    fault("gates swapped", LSTM, "join_gates(*delta) @", "join_gates(*delta[::-1]) @", "lstm"),
    fault("h_t for h_{t-1}", LSTM, "product(carries_tm1.h", "product(carries.h", "lstm"),
    fault(
        "sign in δ_f", MGU, "x.keep) - h_tm1) + u * h_tm1", "x.keep) - h_tm1) - u * h_tm1", "mgu"
    ),
    fault("u h left out of δ_f", MGU, " + u * h_tm1) * f", ") * f", "mgu"),
    fault("u f left out", MGU, "d_h * (1 - f) + u * f +", "d_h * (1 - f) +", "mgu"),
    fault("f left out of δ_n", MGU, "parts.scaled(d_h * f, x.keep)", "d_h", "mgu"),
    fault(
        "gather without f",
        MGU,
        "product_gathered(saved.f * hs_tm1",
        "product_gathered(hs_tm1",
        "mgu",
    ),
    fault("slope of relu left out", INDRNN, "jnp.where(h_t > 0, d_h, 0)", "d_h", "indrnn"),
    fault("slope elsewhere", INDRNN, "saved.a)[1]", "0 * saved.a)[1]", "indrnn_tanh"),
    fault("u left out", INDRNN, "parts.scaled(delta, u), delta", "delta, delta", "indrnn"),
    fault("h_t for h_{t-1}", INDRNN, "summed(hs_tm1 * deltas)", "summed(hs * deltas)", "indrnn"),
    fault("a left out", LINEAR, "return _times_a(d_h, w, z), d_h", "return d_h, d_h", "min_gru"),
    fault("h_t for h_{t-1}", LINEAR, "deltas * hs_tm1", "deltas * hs", "min_lstm"),
    fault("sign of ∂a", LINEAR, "None, Drive(Affine(d_a", "None, Drive(Affine(-d_a", "min_lstm"),
    fault("λ a for ∂b", LINEAR, "scaled(deltas, zs.keep)", "scaled(d_a, zs.keep)", "min_gru"),
    fault(
        "conjugate of a",
        LINEAR,
        "return _times_a(d_h, w, z), d_h",
        "return _times_a(d_h, jnp.conj(w), z), d_h",
        "lru",
    ),
    fault("conjugate of x", LINEAR, "summed(d_a)", "summed(deltas * jnp.conj(hs_tm1))", "lru"),
    fault("h_t for h_{t-1}, constant a", LINEAR, "summed(d_a)", "summed(deltas * hs)", "lru"),
    fault("∂a left out", LINEAR, "return parts.summed(d_a)", "return 0 * parts.summed(d_a)", "lru"),
    fault("output's adjoint left out", BPTT, "tree.add(d_carry, d_carry_t)", "d_carry", "gru"),
    fault(
        "λ_T left out",
        BPTT,
        "d_carry = tree.zeros_where_none(d_last, carry)",
        "d_carry = jax.tree.map(lambda c: 0 * c, carry)",
        "elman",
    ),
    fault("time runs forward", BPTT, "reverse=True", "reverse=False", "elman"),
    fault("no shift", BPTT, "(tree.shifted(carry, carries), zs", "(carries, zs", "lstm"),
    fault(
        "carry's δ for λ",
        DERIVED,
        "d_carry_tm1, d_carry_t\n",
        "d_carry_tm1, d_carry_tm1\n",
        "plain",
    ),
    fault(
        "linearised at c_0",
        DERIVED,
        "over_time(w, carries_tm1, zs)",
        "over_time(w, jax.tree.map(lambda c: 0 * c, carries_tm1), zs)",
        "plain",
    ),
    moved_cut("cut one step early", "k1 - 1"),
    moved_cut("cut one step late", "k1 + 1"),
    fault(
        "first carry cut",
        TRUNCATED,
        "_cut(carry, s > 0)",
        "_cut(carry, s >= 0)",
        "elman",
        "truncated:4",
    ),
    fault(
        "rest not cut", TRUNCATED, "_cut(carry, True)", "_cut(carry, False)", "elman", "truncated:4"
    ),
    fault("no cut", TRUNCATED, "lax.stop_gradient(c)", "c", "elman", "truncated:4"),
)
FORWARD = (
    fault("kernel transposed", ELMAN, "h_tm1 @ w.w_h  #", "h_tm1 @ w.w_h_t  #", "elman"),
    fault("input bias left out", PARTS, "plus_bias(xs @ w, b)", "xs @ w", "elman"),
    fault("recurrent bias left out", GRU, "parts.plus_bias(q, w.b_n)", "q", "gru"),
    fault("reset before for after", GRU, "_AFTER if reset_after", "_BEFORE if reset_after", "gru"),
    fault(
        "gates swapped",
        GRU,
        "sigmoid(x.r + a_r), sigmoid(x.z + a_z), p",
        "sigmoid(x.z + a_z), sigmoid(x.r + a_r), p",
        "gru",
    ),
    fault("z for 1 - z", GRU, "n + z * (h_tm1 - n), GRUA", "h_tm1 + z * (n - h_tm1), GRUA", "gru"),
    fault("reset after for before", GRU, "(r * h_tm1) @ w.w_n)", "r * (h_tm1 @ w.w_n))", BEFORE),
    fault(
        "gates swapped",
        LSTM,
        "sigmoid(z.i + a.i), sigmoid(z.f + a.f)",
        "sigmoid(z.f + a.f), sigmoid(z.i + a.i)",
        "lstm",
    ),
    fault("tanh of c left out", LSTM, "o * jnp.tanh(c)", "o * c", "lstm"),
    fault("f for 1 - f", MGU, "h_tm1 + f * (parts.s", "h_tm1 + (1 - f) * (parts.s", "mgu"),
    fault("f left out of n", MGU, "product(f * h_tm1, w.n)", "product(h_tm1, w.n)", "mgu"),
    fault("u left out", INDRNN, "parts.scaled(h_tm1, u)", "h_tm1", "indrnn"),
    fault("other activation", INDRNN, "return activation(a)", "return abs(a)", "indrnn"),
    fault("a left out", LINEAR, "return _times_a(h_tm1, w, z) +", "return h_tm1 +", "min_gru"),
    fault(
        "gates swapped",
        MIN_GRU,
        "sigmoid(-x_z), sigmoid(x_z)",
        "sigmoid(x_z), sigmoid(-x_z)",
        "min_gru",
    ),
    fault(
        "gates swapped",
        MIN_LSTM,
        "log_sigmoid(x_f) - log_sigmoid(x_i)",
        "log_sigmoid(x_i) - log_sigmoid(x_f)",
        "min_lstm",
    ),
    fault("gates not normalised", MIN_LSTM, "sigmoid(odds), s", "sigmoid(x_f), s", "min_lstm"),
    fault("γ left out", LRU, "us @ parts.scaled(p[name], gamma)", "us @ p[name]", "lru"),
    fault(
        "sign of Im C",
        LRU,
        'jnp.real(xs) @ p["c_re"] - jnp',
        'jnp.real(xs) @ p["c_re"] + jnp',
        "lru",
    ),
    fault("phase not exponentiated", LRU, 'jnp.exp(p["theta_log"])', 'p["theta_log"]', "lru"),
    fault("forget gate left out", LSTM, "f * carry_tm1.c + i", "carry_tm1.c + i", "lstm"),
)

CERTIFY = """
import functools, sys
import jax, jaxrnn, numpy
from jaxrnn.certify import drawn

cell_name, loop_name = sys.argv[1:]
cell = dict(jaxrnn.CELLS).get(cell_name, jaxrnn.elman)(4)
args = (None, None, None)
if cell_name == "plain":
    with jax.enable_x64(True):
        args = drawn(cell, numpy.random.default_rng(0))
    cell = functools.partial(lambda cell, *args: cell(*args), cell)
sys.exit(not jaxrnn.certify(cell, *args, loop=dict(jaxrnn.LOOPS)[loop_name]).ok)
"""


def law(planted: Fault, forward: bool) -> str:
    """The test that has to turn red."""
    if forward:
        return f"forward_equals_the_equations_in_numpy[{planted.cell}]"
    if planted.cell == "plain":
        return "contributions_of_single_steps_sum_to_the_gradient[elman]"
    return f"gradient_equals_autodiff[{planted.loop}-{planted.cell}]"


def is_red(tree: Path, *command: str) -> bool:
    """Whether a Python command fails in `tree`; exit codes above 1 are no verdict."""
    env = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, *command], cwd=tree, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.returncode == 1


def caught_by(planted: Fault, forward: bool) -> dict[str, bool]:
    """Plant one fault and ask each judge that has to see it."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("jaxrnn", "tests"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        file = tree / "jaxrnn" / planted.file
        text = file.read_text()
        for old, new in planted.edits:
            if text.count(old) != 1:
                raise RuntimeError(f"{planted.name}: {old!r} stands {text.count(old)} times")
            text = text.replace(old, new)
        file.write_text(text)
        tests = f"tests/test_laws.py::test_{law(planted, forward)}"
        judges = {"laws": is_red(tree, "-m", "pytest", "-x", "-p", "no:cacheprovider", tests)}
        if not forward:
            judges["certificate"] = is_red(tree, "-c", CERTIFY, planted.cell, planted.loop)
        return judges


def main(chosen: str = "") -> int:
    """Plant all faults whose name or file contains `chosen`; say of each what caught it."""
    unseen = 0
    for forward, faults in ((False, BACKWARD), (True, FORWARD)):
        for planted in faults:
            if chosen not in planted.name and chosen not in planted.file:
                continue
            judges = caught_by(planted, forward)
            unseen += not all(judges.values())
            verdict = ", ".join(
                f"{name} {'red' if red else 'GREEN'}" for name, red in judges.items()
            )
            direction = "forward" if forward else "backward"
            print(f"{planted.file:20} {direction:8} {planted.name:28} {verdict}", flush=True)
    print(f"{unseen} unseen")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
