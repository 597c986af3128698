"""Plant faults one by one in a copy of the library and see what catches each.

    python tests/faults.py            # all of them
    python tests/faults.py lstm       # those whose name or file contains "lstm"

A backward fault has to turn both the certificate and the laws red, a forward fault the comparison
with NumPy, a fault in what is built around cells and loops the test that stands beside it. Exits 1
if any fault goes unseen. About ten seconds a fault.
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
PROJECTED, PEEPHOLE, LN_LSTM, LN_GRU, NORM = (
    f"cells/{name}.py"
    for name in ("projected_lstm", "peephole_lstm", "layer_norm_lstm", "layer_norm_gru", "norm")
)
MGU, INDRNN, LINEAR, LRU = (f"cells/{name}.py" for name in ("mgu", "indrnn", "linear", "lru"))
MIN_GRU, MIN_LSTM = "cells/min_gru.py", "cells/min_lstm.py"
BPTT, TRUNCATED, CHUNKS = (f"loops/{name}.py" for name in ("bptt", "truncated", "chunks"))
FRONT, GRAPH, JAXPRS, LINEARIZED, RECURRENCE, REGIONS = (
    f"loops/derived/{name}.py"
    for name in ("front", "graph", "jaxprs", "linearized", "recurrence", "regions")
)
CHECKPOINTED = "loops/checkpointed.py"
SHARDING, ON_DEVICES = "sharding.py", "test_sharding.py::test"
OF_ANY_STEP = "loops/test_derived.py::test"
SEGMENTS = "def _truncated(k1: int, k2: int, loop: Loop) -> Loop:\n"
REACH = "(t // k1 + 1) * k1 - k2"
JOINED = "(delta.r, delta.z, delta.n * r)"
BEFORE = "gru_reset_before"


def moved_cut(name: str, k1: str) -> Fault:
    """Segments of another length than the loop says it has."""
    moved = f"{SEGMENTS}    said, k1, k2 = k1, {k1}, {k1}\n"
    edits = ((SEGMENTS, moved), (REACH, "t // said * said"))
    return Fault(name, TRUNCATED, edits, "elman", "truncated:4")


BACKWARD = (
    fault("sign in the slope", ELMAN, "(1 - h * h)", "(1 + h * h)", "elman"),
    fault("slope left out", ELMAN, "d_h * (1 - h * h)", "d_h * 1", "elman"),
    fault(
        "kernel transposed",
        ELMAN,
        "return adjoint(delta, w), delta",
        "return delta @ w.w, delta",
        "elman",
    ),
    fault("h_t for h_{t-1}", ELMAN, "gathered(seen.carry_tm1", "gathered(seen.carry", "elman"),
    fault("slope elsewhere", ELMAN, "jax.vjp(f, a)", "jax.vjp(f, 0 * a)", "elman_softplus"),
    fault("sign of δ_z", GRU, "d_h * (h_tm1 - parts", "-d_h * (h_tm1 - parts", "gru"),
    fault("sign of δ_n", GRU, "(d_h * (1 - z), x.keep)", "(d_h * (z - 1), x.keep)", "gru"),
    fault("sign of δ_r", GRU, "delta_n * q * r * (1 - r)", "delta_n * q * r * (r - 1)", "gru"),
    fault("δ_r without q", GRU, "delta_n * q * r", "delta_n * r", "gru"),
    fault(
        "λ z left out",
        GRU,
        "d_h * seen.saved.z + parts.product_adjoint(d_p, w.w_h)",
        "parts.product_adjoint(d_p, w.w_h)",
        "gru",
    ),
    fault("δ_n without r", GRU, JOINED, "(delta.r, delta.z, delta.n)", "gru"),
    fault("gates swapped", GRU, JOINED, "(delta.z, delta.r, delta.n * r)", "gru"),
    fault(
        "h_t for h_{t-1}",
        GRU,
        "gathered(seen.carry_tm1, d_ps",
        "gathered(seen.carry, d_ps",
        "gru",
    ),
    fault("∂b_n without r", GRU, "(deltas.n * seen.saved.r)", "(deltas.n)", "gru"),
    fault("kernel turned", PARTS, "return Kernel(w, w.T)", "return Kernel(w, w.T[:, ::-1])", "gru"),
    fault("u r left out", GRU, "d_h * z + u * r +", "d_h * z +", BEFORE),
    fault("sign of δ_r", GRU, "u * h_tm1 * r * (1 - r)", "u * h_tm1 * r * (r - 1)", BEFORE),
    fault(
        "kernel transposed", GRU, "parts.product_adjoint(delta_n, w.n)", "delta_n @ w.n.w", BEFORE
    ),
    fault("gather without r", GRU, "gathered(r * h_tm1", "gathered(h_tm1", BEFORE),
    fault("sign of δ_i", LSTM, "g, keep) * i * (1 - i)", "g, keep) * i * (i - 1)", "lstm"),
    fault("sign of δ_f", LSTM, "carry_tm1.c * f * (1 - f)", "carry_tm1.c * f * (f - 1)", "lstm"),
    fault("sign of δ_g", LSTM, "i, keep) * (1 - g * g)", "i, keep) * (g * g - 1)", "lstm"),
    fault("sign of δ_o", LSTM, "m * o * (1 - o)", "m * o * (o - 1)", "lstm"),
    fault("c_t for c_{t-1}", LSTM, "seen.carry_tm1.c * f", "seen.carry.c * f", "lstm"),
    fault("L5 left out", LSTM, "d_carry.c + d_carry.h * o * (1 - m * m)", "d_carry.c", "lstm"),
    fault("slope of tanh(c) left out", LSTM, "o * (1 - m * m)", "o", "lstm"),
    fault("f left out of μ", LSTM, "d_h_tm1, d_c * f)", "d_h_tm1, d_c)", "lstm"),
    fault("gates swapped", LSTM, "join_gates(*delta), w)", "join_gates(*delta[::-1]), w)", "lstm"),
    fault("h_t for h_{t-1}", LSTM, "gathered(seen.carry_tm1.h", "gathered(seen.carry.h", "lstm"),
    fault("projection turned", PROJECTED, '"w_p"].T)', '"w_p"].T[::-1])', "projected_lstm"),
    fault("sign of σ", PROJECTED, "d_s = parts.dot", "d_s = -parts.dot", "projected_lstm"),
    fault("μ left out", PROJECTED, "(d_s, d_carry.c)", "(d_s, 0 * d_carry.c)", "projected_lstm"),
    fault("∂W_p without o", PROJECTED, "(seen.saved.o * tanh", "(tanh", "projected_lstm"),
    fault(
        "h_t for h_{t-1}",
        PROJECTED,
        "gather(w.h, seen, ",
        "gather(w.h, seen._replace(carry_tm1=seen.carry), ",
        "projected_lstm",
    ),
    fault("p_o left out of μ", PEEPHOLE, " + parts.scaled(delta_o, w.p_o)", "", "peephole_lstm"),
    fault("p left out of μ_{t-1}", PEEPHOLE, " * f + d_seen", " * f", "peephole_lstm"),
    fault("p_i for p_f", PEEPHOLE, "(delta.f, w.p_f)", "(delta.f, w.p_i)", "peephole_lstm"),
    fault(
        "c_{t-1} for c_t",
        PEEPHOLE,
        "deltas.o * seen.carry.c",
        "deltas.o * seen.carry_tm1.c",
        "peephole_lstm",
    ),
    fault(
        "c_t for c_{t-1}",
        PEEPHOLE,
        "deltas.f * seen.carry_tm1.c",
        "deltas.f * seen.carry.c",
        "peephole_lstm",
    ),
    fault(
        "mean g left out", NORM, "g - jnp.mean(g, axis=-1, keepdims=True)", "g", "layer_norm_lstm"
    ),
    fault("â's part left out", NORM, " - values * along", "", "layer_norm_gru"),
    fault("1/σ left out", NORM, "along) * self.rate", "along)", "layer_norm_lstm"),
    fault(
        "gain_c left out",
        LN_LSTM,
        "c_hat.adjoint(parts.scaled(d_k, w.gain_c))",
        "c_hat.adjoint(d_k)",
        "layer_norm_lstm",
    ),
    fault(
        "norm of c_{t-1}",
        LN_LSTM,
        "c_hat = gates.o, normed(seen.carry.c",
        "c_hat = gates.o, normed(seen.carry_tm1.c",
        "layer_norm_lstm",
    ),
    fault(
        "gain_h left out", NORM, "parts.scaled(d_gained, w.gain_h)", "d_gained", "layer_norm_lstm"
    ),
    fault(
        "∂gain_c of c",
        LN_LSTM,
        "normed(seen.carry.c).values",
        "seen.carry.c",
        "layer_norm_lstm",
    ),
    fault("slope of the last tanh", LN_LSTM, " * o * (1 - m * m)", " * o", "layer_norm_lstm"),
    fault("sign of δ_r", GRU, "q * r * (1 - r)", "q * r * (r - 1)", "layer_norm_gru"),
    fault("δ_n without r", GRU, "delta.n * r)", "delta.n)", "layer_norm_gru"),
    fault(
        "gain_h left out", NORM, "parts.scaled(d_gained, w.gain_h)", "d_gained", "layer_norm_gru"
    ),
    fault("λ z left out", LN_GRU, "d_h * z + parts", "parts", "layer_norm_gru"),
    fault("∂b_n without r", LN_GRU, "(deltas.n * r)", "(deltas.n)", "layer_norm_gru"),
    fault(
        "sign in δ_f", MGU, "x.keep) - h_tm1) + u * h_tm1", "x.keep) - h_tm1) - u * h_tm1", "mgu"
    ),
    fault("u h left out of δ_f", MGU, " + u * h_tm1) * f", ") * f", "mgu"),
    fault("u f left out", MGU, "d_h * (1 - f) + u * f +", "d_h * (1 - f) +", "mgu"),
    fault("f left out of δ_n", MGU, "parts.scaled(d_h * f, x.keep)", "d_h", "mgu"),
    fault(
        "gather without f",
        MGU,
        "product_gathered(f * h_tm1",
        "product_gathered(h_tm1",
        "mgu",
    ),
    fault("slope of relu left out", ELMAN, "jnp.where(h > 0, d_h, 0)", "d_h", "indrnn"),
    fault("slope of tanh left out", ELMAN, "d_h * (1 - h * h)", "d_h", "indrnn_tanh"),
    fault(
        "u left out", INDRNN, "parts.scaled, gathered", "lambda delta, u: delta, gathered", "indrnn"
    ),
    fault("∂u without δ", INDRNN, "summed(hs_tm1 * deltas)", "summed(hs_tm1)", "indrnn"),
    fault("h_t for h_{t-1}", ELMAN, "gathered(seen.carry_tm1,", "gathered(seen.carry,", "indrnn"),
    fault(
        "a left out", LINEAR, "return _times_a(d_h, w, seen.z), d_h", "return d_h, d_h", "min_gru"
    ),
    fault("h_t for h_{t-1}", LINEAR, "deltas * seen.carry_tm1", "deltas * seen.carry", "min_lstm"),
    fault("sign of ∂a", LINEAR, "None, Drive(Affine(d_a", "None, Drive(Affine(-d_a", "min_lstm"),
    fault("h_{t-1} for λ in ∂b", LINEAR, "scaled(deltas", "scaled(seen.carry_tm1", "min_gru"),
    fault(
        "conjugate of a",
        LINEAR,
        "_times_a(d_h, w, seen.z), d_h",
        "_times_a(d_h, jnp.conj(w), seen.z), d_h",
        "lru",
    ),
    fault(
        "conjugate of x", LINEAR, "summed(d_a)", "summed(deltas * jnp.conj(seen.carry_tm1))", "lru"
    ),
    fault(
        "h_t for h_{t-1}, constant a", LINEAR, "summed(d_a)", "summed(deltas * seen.carry)", "lru"
    ),
    fault("∂a left out", LINEAR, "return parts.summed(d_a)", "return 0 * parts.summed(d_a)", "lru"),
    fault(
        "output's adjoint left out", BPTT, "tree.add_sparse(d_carry, d_carry_t)", "d_carry", "gru"
    ),
    fault(
        "λ_T left out",
        BPTT,
        "d_carry = tree.add_sparse(tree.zero_cotangents(carry), d_last)",
        "d_carry = jax.tree.map(lambda c: 0 * c, carry)",
        "elman",
    ),
    fault("time runs forward", BPTT, "reverse=True", "reverse=False", "elman"),
    fault("no shift", BPTT, "(tree.shift_right(carry, carries), zs", "(carries, zs", "lstm"),
    fault(
        "λ does not go on, derived",
        RECURRENCE,
        "return (_values(env, step.outputs.d_carry_in), sums), stacked",
        "return (d_carry, sums), stacked",
        "plain",
    ),
    fault(
        "slope left out, derived",
        LINEARIZED,
        "tangents[0] + tangents[1]",
        "tangents[1]",
        "plain",
    ),
    fault(
        "no shift, derived", RECURRENCE, "tree.shift_right(c, stacks[out])", "stacks[out]", "plain"
    ),
    moved_cut("cut one step early", "k1 - 1"),
    moved_cut("cut one step late", "k1 + 1"),
    fault(
        "first carry cut",
        TRUNCATED,
        "(s > 0) | (head > 0)",
        "s >= 0",
        "elman",
        "truncated:4",
    ),
    fault(
        "rest not cut",
        TRUNCATED,
        "_cut(start, True), xs",
        "_cut(start, False), xs",
        "elman",
        "truncated:4",
    ),
    fault("no cut", TRUNCATED, "jax.lax.stop_gradient(c)", "c", "elman", "truncated:4"),
    fault(
        "windows begin late",
        TRUNCATED,
        "tree.slice_time(xs_s, k1, k2))\n            return",
        "jax.tree.map(jax.lax.stop_gradient, tree.slice_time(xs_s, k1, k2)))\n            return",
        "elman",
        "truncated:2:5",
    ),
    fault(
        "head cut",
        TRUNCATED,
        "last, head_ys = run(start,",
        "last, head_ys = run(_cut(start, True),",
        "elman",
        "truncated:2:5",
    ),
    fault(
        "λ not handed on",
        CHECKPOINTED,
        "pull((d_carry, d_ys))",
        "pull((jax.tree.map(jnp.zeros_like, d_carry), d_ys))",
        "elman",
        "checkpointed",
    ),
    fault(
        "one segment's weights",
        CHECKPOINTED,
        "(at_hand, slots, d_carry, tree.add_sparse(d_params, more), d_xs)",
        "(at_hand, slots, d_carry, tree.add_sparse(more, None), d_xs)",
        "elman",
        "checkpointed",
    ),
    fault(
        "head's weights left out",
        CHECKPOINTED,
        "d_params, d_xs = tree.add_sparse(d_params, more), _put(d_xs, d_here, 0)",
        "d_xs = _put(d_xs, d_here, 0)",
        "elman",
        "checkpointed",
    ),
    fault(
        "inputs one segment off",
        CHECKPOINTED,
        "_put(d_xs, d_here, start)",
        "_put(d_xs, d_here, start - plan.head)",
        "elman",
        "checkpointed",
    ),
    fault(
        "states one slot off",
        CHECKPOINTED,
        "jnp.where(load < 0, c, s[load])",
        "jnp.where(load < 0, c, s[load - 1])",
        "elman",
        "checkpointed:3",
    ),
)
FORWARD = (
    fault("f for 1 - f", MGU, "h_tm1 + f * (parts.s", "h_tm1 + (1 - f) * (parts.s", "mgu"),
    fault("f left out of n", MGU, "product(f * h_tm1, w.n)", "product(h_tm1, w.n)", "mgu"),
    fault("u left out", INDRNN, "products = parts.scaled", "products = lambda h, u: h", "indrnn"),
    fault(
        "other activation", INDRNN, "recurrence(form, activation", "recurrence(form, abs", "indrnn"
    ),
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
    fault("kernel transposed", ELMAN, "z_t + product(h_tm1, w)", "z_t + h_tm1 @ w.w_t", "elman"),
    fault("input bias left out", PARTS, "plus_bias(xs @ w, b)", "xs @ w", "elman"),
    fault("recurrent bias left out", GRU, "parts.plus_bias(q, b_n)", "q", "gru"),
    fault("reset before for after", GRU, "_AFTER if reset_after", "_BEFORE if reset_after", "gru"),
    fault(
        "gates swapped",
        GRU,
        "sigmoid(x.gates.r + a_r), sigmoid(x.gates.z + a_z), p",
        "sigmoid(x.gates.z + a_z), sigmoid(x.gates.r + a_r), p",
        "gru",
    ),
    fault("z for 1 - z", GRU, "n + z * (h_tm1 - n)  # (G4)", "h_tm1 + z * (n - h_tm1)", "gru"),
    fault(
        "reset after for before",
        GRU,
        "parts.product(r * h_tm1, w.n)",
        "r * parts.product(h_tm1, w.n)",
        BEFORE,
    ),
    fault(
        "gates swapped",
        LSTM,
        "sigmoid(x.i + a.i), sigmoid(x.f + a.f)",
        "sigmoid(x.f + a.f), sigmoid(x.i + a.i)",
        "lstm",
    ),
    fault("tanh of c left out", LSTM, "o * tanh(c)", "o * c", "lstm"),
    fault(
        "projection of the memory",
        PROJECTED,
        "dot(s, w.w_p)",
        "dot(c, w.w_p)",
        "projected_lstm",
    ),
    fault(
        "o sees c_{t-1}",
        PEEPHOLE,
        "scaled(c, w.p_o)",
        "scaled(carry_tm1.c, w.p_o)",
        "peephole_lstm",
    ),
    fault("peepholes swapped", PEEPHOLE, "in (w.p_i, w.p_f)", "in (w.p_f, w.p_i)", "peephole_lstm"),
    fault(
        "mean stays",
        NORM,
        "wide - jnp.mean(wide, axis=-1, keepdims=True)",
        "wide",
        "layer_norm_gru",
    ),
    fault("ε left out", NORM, "keepdims=True) + epsilon", "keepdims=True)", "layer_norm_lstm"),
    fault(
        "bias of ĉ left out",
        LN_LSTM,
        "parts.plus_bias(parts.scaled(c_hat, w.gain_c), w.b_c)",
        "parts.scaled(c_hat, w.gain_c)",
        "layer_norm_lstm",
    ),
    fault(
        "b_n outside of r",
        GRU,
        "n + r * q)",
        "n + r * (q - b_n[None]) + b_n[None])",
        "layer_norm_gru",
    ),
    fault("forget gate left out", LSTM, "f * c_tm1 + i", "c_tm1 + i", "lstm"),
)

MARKS, ZONEOUT, NOISE, FED_BACK = (
    f"transforms/{name}.py" for name in ("marks", "zoneout", "noise", "fed_back")
)
SEQUENCE, NETWORKS, LAYERS, TREE = "sequence.py", "networks.py", "layers.py", "tree.py"
ROWS = "test_sequence_laws.py::test_rows_of_every_cell_equal_rows_alone[lstm]"
TURNED = "test_sequence_laws.py::test_rows_of_every_loop_equal_rows_alone"
NOISY = "transforms/test_noise.py::test_one_key_gives_one_result_and_gradient_under_every_loop[bptt"
DRAWN = "transforms/test_noise.py::test"
NETS = "test_networks.py::test"
CONTROLLED = "transforms/controlled.py"
FLOW, SPECTRUM, NONFINITE = (f"diagnostics/{n}.py" for n in ("flow", "spectrum", "nonfinite"))
CONTROL = "transforms/test_controlled.py::test"
TRUNCATION, REPORT = "diagnostics/truncation.py", "diagnostics/test_truncation.py::test"
GEOMETRIC = f"{REPORT}_of_a_geometric_decay_it_finds_the_least_power_of_two"
ERRORS = f"{REPORT}_rows_are_errors_and_angles_of_truncated_gradients"
SUMS = "cells/test_lstm_variants.py::test_a_memory_sums_up_in_float32"
WIDE = "cells/test_lstm_variants.py::test_narrow_params_may_have_a_start_that_is_learned_and_wide"
NARROW = "cells/test_cells.py::test_a_narrow_step_computes_in_float32"
INTEGERS = "loops/test_bptt.py::test_integers_in_the_carry_may_pass_through_an_outer_scan"
EIGHT = "test_composition.py::test_over_eight_devices_the_gradient_is_the_same"
REFUSED = "test_check.py::test_bad_input_raises_our_error_before_anything_compiles"
UNASKED = "test_bad_input.py::test_bad_input_raises_our_error_before_anything_compiles"
CHUNKED = "loops/test_bptt.py::test_a_long_sequence_is_run_in_chunks"
JUDGED = f"{CONTROL}_every_control_equals_a_python_loop"
ORTHOGONAL, ORTHONORMAL = "cells/orthogonal.py", "cells/test_orthogonal.py::test"
DECOMPOSITIONS, DECOMPOSED = (
    "diagnostics/decompositions.py",
    "diagnostics/test_decompositions.py::test",
)
VERDICT = "diagnostics/verdict.py"
FINDING = "diagnostics/test_verdict.py::test_a_finding_is_a_sentence_with_its_numbers"
HANGS = "test_hangs.py::test"
SINGULAR = "diagnostics/test_spectrum.py::test_singular_values_and_norms_equal_those_of_jacobians"
TABLES, LAYOUT, ENDS = (f"interop/{n}" for n in ("layouts.toml", "layout.py", "layers.py"))
EXCHANGED = {n: f"interop/test_{n}.py::test" for n in ("torch", "flax", "haiku", "keras", "onnx")}
OF_TORCH = f"{EXCHANGED['torch']}_values_and_gradients_are_those_of_pytorch"
OF_ONNX = f"{EXCHANGED['onnx']}_a_node_gives_the_numbers_of_onnxruntime"
FILES, OF_TOKENS = "interop/test_safetensors.py::test", "test_tokens.py::test"
# Faults in what is built on cells and loops; the last text is the test that has to turn red.
AROUND = (
    fault(
        "a rule unwrapped",
        CONTROLLED,
        "traced, shapes = jax.make_jaxpr(step,",
        'traced, shapes = jax.make_jaxpr(getattr(step, "__wrapped__", step),',
        f"{CONTROL}_a_rule_of_the_users_own_is_kept[custom_vjp-clipped]",
    ),
    fault(
        "a rule run twice",
        CONTROLLED,
        "if any(v in anew for v in eqn.invars if not isinstance(v, Literal)):",
        "if True:",
        f"{CONTROL}_a_rule_that_does_not_scale_runs_once_a_step",
    ),
    fault(
        "jit hides y",
        CONTROLLED,
        'if eqn.primitive.name == "jit" or (',
        "if (",
        f"{CONTROL}_a_readout_inside_a_plain_step_belongs_to_the_loss_of_its_step",
    ),
    fault(
        "one draw for all parts",
        SEQUENCE,
        "types.loop_of_part(self.loop, index)",
        "self.loop",
        "loops/test_randomized.py::test_each_part_of_a_network_draws_for_itself",
    ),
    fault(
        "a loop that draws inside another",
        "loops/randomized.py",
        'setattr(cut_at_random, "gradient", "stochastic")',
        "pass",
        "test_bad_input.py::test_bad_input_raises_our_error_before_anything_compiles",
    ),
    fault(
        "plain steps recorded",
        "types.py",
        "if isinstance(thing, (Cell, Layer)):",
        "if True:",
        "interop/test_expressions.py::test_a_plain_step_is_not_kept",
    ),
    fault(
        "a transformation not recorded",
        MARKS,
        "@once\ndef masked",
        "def masked",
        "interop/test_expressions.py::test_it_is_spelt_and_read_back",
    ),
    fault(
        "start of one row alone",
        MARKS,
        "axis=tuple(range(d.ndim - jnp.ndim(c)))",
        "axis=0",
        "transforms/test_marks.py::test_a_start_without_batch_axes_is_that_of_all_rows",
    ),
    fault(
        "padded tokens filled",
        TREE,
        "value if is_inexact(x) else 0",
        "value",
        f"{OF_TOKENS}_ragged_rows_are_each_row_alone[projected]",
    ),
    fault(
        "tokens with features",
        NETWORKS,
        "return self.parts[0].num_feature_axes",
        "return 1",
        f"{OF_TOKENS}_every_network_starts_from_its_zero_state[()-stacked]",
    ),
    fault(
        "marks on the axes of features",
        MARKS,
        "xs.mask, xs.xs, cell.num_feature_axes",
        "xs.mask, xs.xs, 1",
        f"{OF_TOKENS}_a_cell_may_take_tokens_itself",
    ),
    fault(
        "certificate of features",
        "certify.py",
        "if cell.num_feature_axes == 0:",
        "if False:",
        f"{OF_TOKENS}_the_certificate_draws_tokens[GRU]",
    ),
    fault("z and r of b_hh swapped", TABLES, "b.rz b_n", "b.zr b_n", f"{OF_TORCH}[GRU]"),
    fault(
        "z not turned",
        TABLES,
        "{}.w_i = w_x.-zrn",
        "{}.w_i = w_x.zrn",
        f"{EXCHANGED['haiku']}_values_and_gradients_are_those_of_haiku[GRU]",
    ),
    fault(
        "no 1 at the forget gate",
        TABLES,
        "offsets = [0.0, 1.0",
        "offsets = [0.0, 0.0",
        f"{EXCHANGED['haiku']}_values_and_gradients_are_those_of_haiku[LSTM]",
    ),
    fault(
        "second bias of Keras in another order",
        TABLES,
        "b.zrn / b.zr b_n",
        "b.zrn / b.rz b_n",
        f"{EXCHANGED['keras']}_values_and_gradients_are_those_of_keras[GRU]",
    ),
    fault(
        "peepholes in another order",
        TABLES,
        "p_i p_o p_f",
        "p_i p_f p_o",
        f"{OF_ONNX}[all inputs-LSTM peepholes]",
    ),
    fault(
        "a shared gate read once",
        LAYOUT,
        "tensors[name] += tensor",
        "pass",
        f"{EXCHANGED['flax']}_values_and_gradients_are_those_of_flax[linen.MGUCell]",
    ),
    fault(
        "both biases written",
        LAYOUT,
        "if once and key in said[:-1]",
        "if False",
        f"{EXCHANGED['torch']}_there_and_back_gives_the_same_bits[GRU]",
    ),
    fault(
        "what cannot be held is written",
        LAYOUT,
        "equal_nan=True)",
        "equal_nan=True) or True",
        f"{EXCHANGED['flax']}_a_bias_that_flax_lacks_has_to_be_zero",
    ),
    fault(
        "offset added twice",
        LAYOUT,
        "layout.shifted(params, -1)",
        "layout.shifted(params, 1)",
        f"{EXCHANGED['haiku']}_there_and_back_gives_the_same_bits[LSTM]",
    ),
    fault(
        "directions swapped",
        ENDS,
        "Directions(*params)",
        "Directions(*params[::-1])",
        f"{OF_TORCH}[GRU both ways]",
    ),
    fault(
        "dropout left out",
        ENDS,
        "if parts and rate:",
        "if False:",
        f"{EXCHANGED['torch']}_dropout_stands_between_the_layers",
    ),
    fault(
        "states not turned",
        "interop/onnx.py",
        'if said.get("layout") else 0',
        "if False else 0",
        f"{EXCHANGED['onnx']}_batch_major_states_are_turned",
    ),
    fault(
        "float64 rounded",
        LAYOUT,
        "canonicalize_dtype(dtype) == dtype",
        "canonicalize_dtype(dtype) is not None",
        f"{FILES}_float64_is_never_rounded_in_silence",
    ),
    fault("no tail", TRUNCATION, "change / (1 - change / before)", "change", GEOMETRIC),
    fault(
        "k for k / 2",
        TRUNCATION,
        "Adapted(k // 2, bias, loops[k // 2])",
        "Adapted(k, bias, loops[k])",
        GEOMETRIC,
    ),
    fault(
        "error of ĝ",
        TRUNCATION,
        "- exact) / np.linalg.norm(exact)",
        "- exact) / np.linalg.norm(found)",
        ERRORS,
    ),
    fault(
        "c narrow", LSTM, "batch_shape, parts.at_least_float32(dtype)", "batch_shape, dtype", SUMS
    ),
    fault(
        "step narrow",
        PARTS,
        "*tree.cast((carry_tm1, z), at_least_float32(dtype)))",
        "carry_tm1, z)",
        NARROW,
    ),
    fault(
        "float0 let in", TREE, ' or getattr(ct, "dtype", None) == jax.dtypes.float0', "", INTEGERS
    ),
    fault("weights not laid", PARTS, "jax.typeof(w).sharding", "None", f"{EIGHT}[explicit]"),
    fault("state not laid", SEQUENCE, "if any(of_rows.spec)", "if False", f"{EIGHT}[explicit]"),
    fault("nothing varies", TREE, "tuple(axes - ", "tuple(axes & ", f"{EIGHT}[shard_map]"),
    fault("noise not laid", "transforms/noise.py", "*of_c.spec", "", f"{EIGHT}[explicit]"),
    fault(
        "batches broadcast",
        "check.py",
        "that(leaf.shape == wanted.shape, place",
        "that(True, place",
        REFUSED,
    ),
    fault("loop not asked", "check.py", "if takes is not None:", "if False:", UNASKED),
    fault("dtype of the widest", "check.py", "return min(floats", "return max(floats", WIDE),
    fault("chunks turned", CHUNKS, "carry, chunks)", "carry, chunks, reverse=True)", CHUNKED),
    fault("carry not held", MARKS, "tree.where(z.mask, carry_t, carry_tm1)", "carry_t", ROWS),
    fault("λ does not pass", MARKS, "tree.where(mask, d_carry_tm1, d_carry)", "d_carry_tm1", ROWS),
    fault("δ at held steps", MARKS, "tree.zero_unmasked(mask, d_carry)", "d_carry", ROWS),
    fault(
        "NaN let in",
        MARKS,
        "cell.project(params, tree.fill_unmasked(xs.mask, xs.xs, fill))",
        "cell.project(params, xs.xs)",
        "transforms/test_marks.py::test_nan_where_the_mask_is_false_reaches_nothing",
    ),
    fault(
        "plain carry not held",
        MARKS,
        "tree.where(x.mask, new, carry), y",
        "new, y",
        ROWS.replace("lstm", "plain"),
    ),
    fault("λ crosses", MARKS, "tree.zero_unmasked(~reset, d_carry_tm1)", "d_carry_tm1", ROWS),
    fault(
        "adjoint at the old carry",
        MARKS,
        "inner_seen(w, seen), d_carry)",
        "seen._replace(z=seen.z.xs), d_carry)",
        ROWS,
    ),
    fault(
        "gather at the old carry",
        MARKS,
        "inner_seen(w, seen), inner_deltas)",
        "seen._replace(z=seen.z.xs), inner_deltas)",
        ROWS,
    ),
    fault(
        "start's λ at all steps",
        MARKS,
        "tree.zero_unmasked(reset, d_carry_tm1) if learned",
        "d_carry_tm1 if learned",
        ROWS,
    ),
    fault(
        "reset not turned",
        SEQUENCE,
        "jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])",
        "reset",
        f"{TURNED}[bptt-masked-resets-reverse]",
    ),
    fault(
        "reset wraps around",
        SEQUENCE,
        "jnp.zeros_like(reset[:1])",
        "reset[:1]",
        f"{TURNED}[bptt-masked-resets-reverse]",
    ),
    fault(
        "reset to the argument",
        SEQUENCE,
        "start = _zero(step, params, xs, reset.shape[1:])",
        "start = carry",
        f"{TURNED}[bptt-resets]",
    ),
    fault(
        "outputs not zero",
        SEQUENCE,
        "tree.zero_unmasked(mask, ys)  # (3)",
        "ys",
        f"{TURNED}[bptt-masked]",
    ),
    fault(
        "NaN let into layers",
        SEQUENCE,
        "xs if mask is None else tree.fill_unmasked(mask, xs, run.fill)",
        "xs",
        f"{NETS}_nan_in_the_padding_reaches_no_layer",
    ),
    fault(
        "lengths off by one",
        SEQUENCE,
        " < lengths[None]",
        " <= lengths[None]",
        "test_sequence_laws.py::test_lengths_are_a_mask",
    ),
    fault(
        "states one step off",
        SEQUENCE,
        "tree.shift_right(carry, carries), step",
        "carries, step",
        "test_history.py::test_every_gate_of_an_lstm",
    ),
    fault(
        "held for new",
        ZONEOUT,
        "mixed(hold, nothing, d_carry), mixed(hold, d_carry, nothing)",
        "mixed(hold, d_carry, nothing), mixed(hold, nothing, d_carry)",
        f"{NOISY}-zoneout]",
    ),
    fault(
        "adjoint at the mixed carry",
        ZONEOUT,
        "inner_seen(seen), d_new",
        "inner_seen(seen)._replace(carry=seen.carry), d_new",
        f"{NOISY}-zoneout]",
    ),
    fault(
        "mean turned",
        ZONEOUT,
        "p * a + (1 - p) * b",
        "(1 - p) * a + p * b",
        f"{DRAWN}_zoneout_without_a_key_takes_the_mean",
    ),
    fault(
        "kept numbers not scaled",
        NOISE,
        "1 / (1 - rate), 0)",
        "1.0, 0)",
        f"{DRAWN}_dropout_between_layers",
    ),
    fault(
        "adjoint without keep",
        PARTS,
        "scaled(dot(deltas, k.w_t), k.keep)",
        "dot(deltas, k.w_t)",
        f"{NOISY}-variational]",
    ),
    fault(
        "gather without keep",
        PARTS,
        "summed_product(scaled(hs, k.keep), deltas, k.w)",
        "summed_product(hs, deltas, k.w)",
        f"{NOISY}-variational]",
    ),
    fault(
        "one key for all parts",
        SEQUENCE,
        "jax.random.fold_in(self.key, index)",
        "self.key",
        f"{DRAWN}_dropout_between_layers",
    ),
    fault(
        "shortcut left out",
        NETWORKS,
        "ys + jnp.asarray(xs, ys.dtype)",
        "ys",
        f"{NETS}_a_stack_is_its_parts_one_after_another",
    ),
    fault(
        "directions swapped",
        NETWORKS,
        "self._merged(ys, ys_back)",
        "self._merged(ys_back, ys)",
        f"{NETS}_both_directions_equal_two_runs_by_hand[concatenated-alone]",
    ),
    fault(
        "second not turned",
        NETWORKS,
        "xs, 1, turned=True",
        "xs, 1, turned=False",
        f"{NETS}_both_directions_equal_two_runs_by_hand[summed-with both]",
    ),
    fault(
        "input for output",
        FED_BACK,
        "(inner, x), Fed(y, x)",
        "carry, Fed(y, x)",
        "transforms/test_fed_back.py::test_it_is_a_python_loop_and_differentiates[bptt]",
    ),
    fault(
        "sums lost",
        RECURRENCE,
        "delta[v] if v in front.summed else d",
        "d",
        f"{OF_ANY_STEP}_what_rides_in_the_carry_has_the_gradient_of_autodiff[7-inner loop]",
    ),
    fault(
        "inputs' own gradients lost",
        RECURRENCE,
        "delta[v] if v in front.direct else d",
        "d",
        f"{OF_ANY_STEP}_what_rides_in_the_carry_has_the_gradient_of_autodiff[7-inner loop]",
    ),
    fault(
        "readout's gradient lost",
        RECURRENCE,
        "left_over.pop(v, None)",
        "None",
        f"{OF_ANY_STEP}_values_and_gradient_equal_autodiff[7-readout]",
    ),
    fault(
        "readout's gradient twice",
        RECURRENCE,
        "left_over.pop(v, None)",
        "left_over.get(v)",
        f"{OF_ANY_STEP}_what_rides_in_the_carry_has_the_gradient_of_autodiff[7-twice]",
    ),
    fault(
        "memory kept at every step",
        REGIONS,
        "return [v is out for v, out in pairs]",
        "return [False for v, out in pairs]",
        f"{OF_ANY_STEP}_an_unchanged_array_of_the_carry_is_a_parameter",
    ),
    fault(
        "a choice between a value and itself",
        JAXPRS,
        'if eqn.primitive.name == "select_n" and',
        "if False and",
        f"{OF_ANY_STEP}_an_unchanged_array_of_the_carry_is_a_parameter",
    ),
    fault(
        "all made again",
        JAXPRS,
        '*("mul", "div",',
        '*("mul", "tanh", "div",',
        f"{OF_ANY_STEP}_no_more_is_kept_than_the_backward_pass_needs[attending with tanh]",
    ),
    fault(
        "w reached through F as well",
        FRONT,
        "(found if v in self.gathered else env)[v] = x",
        "found[v] = env[v] = x",
        f"{OF_ANY_STEP}_values_and_gradient_equal_autodiff[7-low rank]",
    ),
    fault(
        "large gradients stacked",
        FRONT,
        "jaxprs.size_in_bytes(v) // 2",
        "jaxprs.size_in_bytes(v) * 2",
        f"{OF_ANY_STEP}_a_large_parameter_has_its_gradient_summed_inside_the_loop",
    ),
    fault(
        "not transposed",
        JAXPRS,
        '"dimension_numbers": ((contracted, (1,)), batch)',
        '"dimension_numbers": ((contracted, (0,)), batch)',
        f"{OF_ANY_STEP}_values_and_gradient_equal_autodiff[7-dense]",
    ),
    fault(
        "a matrix in two places",
        FRONT,
        " and v not in exits",
        "",
        f"{OF_ANY_STEP}_what_rides_in_the_carry_has_the_gradient_of_autodiff[7-product and branch]",
    ),
    fault(
        "a matrix's tangent lost",
        JAXPRS,
        "if not isinstance(dw, SymbolicZero):",
        "if False:",
        f"{OF_ANY_STEP}_what_rides_in_the_carry_has_a_gradient_of_its_gradient[stopped]",
    ),
    fault(
        "other draws in a batch",
        REGIONS,
        '"rbg" in str(dtype)',
        '"RBG" in str(dtype)',
        f"{OF_ANY_STEP}_keys_of_every_kind_draw_the_same_numbers[rbg]",
    ),
    fault(
        "a search differentiated",
        LINEARIZED,
        "v not in carry_out and v in reached",
        "v not in carry_out and jaxprs.has_gradient(v)",
        f"{OF_ANY_STEP}_what_rides_in_the_carry_has_the_gradient_of_autodiff"
        "[7-searched for outputs]",
    ),
    fault(
        "branches moved",
        REGIONS,
        'NEVER_BATCHED = {"cond", "while", "pure_callback", "rng_bit_generator"}',
        "NEVER_BATCHED = set()",
        f"{OF_ANY_STEP}_branches_and_searches_stay_in_order",
    ),
    fault(
        "outer products ahead",
        REGIONS,
        "larger or eqn.primitive",
        "eqn.primitive",
        f"{OF_ANY_STEP}_an_outer_product_of_inputs_is_made_inside_the_loop",
    ),
    fault(
        "the farthest cut",
        GRAPH,
        "graph - found.flow",
        "graph",
        "loops/test_graph.py::test_it_is_the_cheapest_set_on_every_path",
    ),
    fault(
        "what must not be cut",
        GRAPH,
        "unlimited if cost is None else scaled",
        "scaled",
        "loops/test_graph.py::test_what_must_not_be_in_it_is_not",
    ),
    fault(
        "parts weigh alike",
        SHARDING,
        "jnp.ones(()) if weight is None else weight(*args)",
        "jnp.ones(())",
        f"{ON_DEVICES}_everything_is_as_on_one_device[8]",
    ),
    fault(
        "one noise for all parts",
        SHARDING,
        "jax.lax.axis_index(AXIS)",
        "0",
        f"{ON_DEVICES}_each_part_draws_noise_of_its_own",
    ),
    fault(
        "sum for mean over parts",
        SHARDING,
        "share / jax.lax.psum(share, AXIS)",
        "share / share",
        f"{ON_DEVICES}_everything_is_as_on_one_device[8]",
    ),
    fault(
        "factor ignored by hand",
        "transforms/crossed.py",
        "lambda d: _times(d, seen.z.factor)",
        "lambda d: d",
        "loops/test_randomized.py::test_one_draw_is_a_product_of_factors[cell]",
    ),
    fault(
        "not rescaled",
        "loops/randomized.py",
        "1 / keep, 0.0)",
        "1.0, 0.0)",
        "loops/test_randomized.py::test_the_mean_over_keys_is_the_exact_gradient[cell]",
    ),
    fault(
        "targets shifted",
        "losses.py",
        "return (carry_t, z.targets), saved",
        "return (carry_t, carry_tm1[1]), saved",
        "test_losses.py::test_a_loss_inside_the_loop_is_the_loss_of_the_outputs[gru]",
    ),
    fault(
        "window cut at its segment",
        "train.py",
        "_checked(loss(params, carry, segment, key), carry)",
        "_checked(loss(params, jax.lax.stop_gradient(carry), segment, key), carry)",
        "test_train.py::test_windowed_is_an_update_a_segment_whose_gradient_reaches_back[12-2-6]",
    ),
    fault(
        "next window from the end",
        "train.py",
        "first = jax.tree.map(lambda c: c[0], carries) if warm else end",
        "first = end",
        "test_train.py::test_windowed_is_an_update_a_segment_whose_gradient_reaches_back[12-2-6]",
    ),
    fault(
        "control ignored by hand",
        CONTROLLED,
        "d_carry, read = control(d_carry)",
        "read = control(d_carry)[1]",
        f"{JUDGED}[clip-lstm-bptt]",
    ),
    fault(
        "control of the hand alone",
        CONTROLLED,
        "return _watched(control, carry_t, z.value.probe), saved",
        "return carry_t, saved",
        f"{JUDGED}[clip-gru-scan]",
    ),
    fault(
        "norm over all rows",
        CONTROLLED,
        "start = len(batch_axes(carry))",
        "start = 0",
        f"{JUDGED}[clip-lstm-bptt]",
    ),
    fault(
        "y passes by",
        CONTROLLED,
        "anew = dict(watched_carry)",
        "anew = {}",
        f"{CONTROL}_a_readout_inside_a_plain_step_belongs_to_the_loss_of_its_step",
    ),
    fault(
        "cut ignored by hand",
        CONTROLLED,
        "linked(seen.z.noise, d_carry_tm1, nothing), (delta",
        "d_carry_tm1, (delta",
        f"{CONTROL}_h_detach_cuts_the_link_of_h_alone",
    ),
    fault(
        "squares that underflow",
        CONTROLLED,
        "peak = _positive(jnp.max(sizes, axis=-1, initial=0))",
        "peak = jnp.ones_like(sizes[..., 0])",
        f"{CONTROL}_zero_and_extreme_adjoints_are_normalised",
    ),
    fault(
        "steps contribute alike",
        FLOW,
        "step(tree.add_sparse(params, zero), carry, x)",
        "step(tree.add_sparse(params, jax.tree.map(lambda z: z / 2, zero)), carry, x)",
        "diagnostics/test_flow.py::test_contributions_are_those_of_single_steps_and_sum_to_the_"
        "gradient",
    ),
    fault(
        "padding saturates",
        FLOW,
        " & counts[..., None]",
        "",
        "diagnostics/test_flow.py::test_saturation_counts_what_the_mask_leaves",
    ),
    fault(
        "a start by LAPACK",
        ORTHOGONAL,
        "x = polar(jax.random.normal(key, (max(shape), min(shape)), dtype))",
        "x = jnp.linalg.qr(jax.random.normal(key, (max(shape), min(shape)), dtype))[0]",
        f"{HANGS}_no_start_calls_lapack[lstm]",
    ),
    fault(
        "QR by LAPACK",
        SPECTRUM,
        "qr = jnp.vectorize(decompositions.qr,",
        "qr = jnp.vectorize(jnp.linalg.qr,",
        f"{HANGS}_no_question_calls_lapack[spectrum]",
    ),
    fault(
        "singular values by LAPACK",
        SPECTRUM,
        "singular_values = jnp.vectorize(decompositions.singular_values,",
        "singular_values = jnp.vectorize(jnp.linalg.svdvals,",
        f"{HANGS}_no_command_calls_lapack",
    ),
    fault(
        "a start that stops too soon",
        ORTHOGONAL,
        "(jnp.linalg.norm(gram - identity) > tolerance)",
        "(jnp.linalg.norm(gram - identity) > 0.1)",
        f"{ORTHONORMAL}_rows_or_columns_are_orthonormal_to_rounding",
    ),
    fault(
        "a start that gives up",
        ORTHOGONAL,
        "MAX_STEPS = 100",
        "MAX_STEPS = 20",
        f"{ORTHONORMAL}_the_worst_conditioned_matrices_have_their_polar_factor",
    ),
    fault(
        "a start of uniform numbers",
        ORTHOGONAL,
        "jax.random.normal(key, (max(shape), min(shape)), dtype)",
        "jax.random.uniform(key, (max(shape), min(shape)), dtype, -1, 1)",
        f"{ORTHONORMAL}_moments_are_those_of_the_uniform_distribution",
    ),
    fault(
        "one gate for all",
        PARTS,
        "jax.vmap(lambda key_h: orthogonal(key_h, of_gate, wide))(keys_h)",
        "jax.vmap(lambda key_h: orthogonal(keys_h[0], of_gate, wide))(keys_h)",
        "cells/test_cells.py::test_gates_start_apart",
    ),
    fault(
        "reflected the other way",
        DECOMPOSITIONS,
        "jnp.where(below[k] < 0, -length, length)",
        "jnp.where(below[k] < 0, length, -length)",
        f"{DECOMPOSED}_qr_is_a_qr_decomposition_column_by_column",
    ),
    fault(
        "columns not brought to one length",
        DECOMPOSITIONS,
        "sizes = a.shape, _positive(_lengths(a.T))[None]",
        "sizes = a.shape, jnp.ones_like(a[:1])",
        f"{DECOMPOSED}_qr_is_a_qr_decomposition_column_by_column",
    ),
    fault(
        "rotations that stop too soon",
        DECOMPOSITIONS,
        "(furthest > eps * (size + 10))",
        "(furthest > 0.1)",
        f"{DECOMPOSED}_singular_values_are_those_of_lapack",
    ),
    fault(
        "a pair that never meets",
        DECOMPOSITIONS,
        "2 * half - 1, turned",
        "2 * half - 2, turned",
        f"{DECOMPOSED}_singular_values_are_those_of_lapack",
    ),
    fault(
        "vanishing one step short",
        VERDICT,
        "0 < steps >= 2 * row.horizon]",
        "0 < steps > row.horizon]",
        f"{FINDING}[of a good model]",
    ),
    fault(
        "half of the sequence is enough",
        VERDICT,
        "0 < steps >= 2 * row.horizon]",
        "0 < steps > 2 * row.horizon]",
        f"{FINDING}[half]",
    ),
    fault(
        "exploding and vanishing at once",
        VERDICT,
        "if row.end <= 10 and 0 < steps",
        "if 0 < steps",
        f"{FINDING}[overflow]",
    ),
    fault(
        "cotangent not conjugated",
        SPECTRUM,
        "jax.tree.map(jnp.conj, back(row)[0])",
        "back(row)[0]",
        f"{SINGULAR}[complex]",
    ),
    fault(
        "product from the wrong end",
        SPECTRUM,
        "(carries_tm1, xs), reverse=True)",
        "(carries_tm1, xs))",
        f"{SINGULAR}[lstm]",
    ),
    fault(
        "rate through the origin",
        SPECTRUM,
        "(lags - jnp.average(lags, 0, known, keepdims=True))",
        "lags",
        f"{SINGULAR}[lstm]",
    ),
    fault(
        "backward pass searched forward",
        NONFINITE,
        "places[np.argmax(places[:, 0]) if last else 0]",
        "places[0]",
        "diagnostics/test_nonfinite.py::test_the_backward_pass_alone",
    ),
    fault(
        "a run replaced unasked",
        "app/run.py",
        "if is_run and not overwrite:",
        "if is_run and not overwrite and not stamps:",
        "app/test_run.py::test_a_run_is_replaced_only_if_that_is_asked_for",
    ),
    fault(
        "two trainings in a folder",
        "app/run.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "app/test_run.py::test_two_trainings_cannot_have_one_folder",
    ),
    fault(
        "a later run mixed in",
        "app/run.py",
        "if _stamps(folder).items() - replaced.items():",
        "if _stamps(folder).keys() - replaced.keys() - {*FILES}:",
        "app/test_run.py::test_a_run_that_came_meanwhile_is_left_alone",
    ),
    fault(
        "half of a run left",
        "app/run.py",
        "os.rename(earlier / name, folder / name)",
        "pass",
        "app/test_run.py::test_a_folder_stays_as_it_was_if_a_file_cannot_take_its_place",
    ),
    fault(
        "the last parameters saved",
        "app/training.py",
        "return last if self.diverged or self.best is None else self.best",
        "return last",
        "app/test_training.py::test_the_parameters_with_the_least_validation_loss_are_saved",
    ),
    fault(
        "the worst parameters saved",
        "app/training.py",
        'metrics["loss"] < min(losses, default=np.inf)',
        'metrics["loss"] > max(losses, default=-np.inf)',
        "app/test_training.py::test_the_parameters_with_the_least_validation_loss_are_saved",
    ),
    fault(
        "the test part selects",
        "app/corpus.py",
        "held_out[:half], held_out[half:]",
        "held_out[half:], held_out[half:]",
        "app/test_corpus.py::test_the_last_twentieth_is_held_out_half_to_select_and_half_to_test",
    ),
    fault(
        "an example trained on",
        "app/text.py",
        "next(corpus.segments(validation,",
        "next(corpus.segments(tokens,",
        "app/test_portable_runs.py::test_the_example_is_of_the_text_that_was_not_trained_on",
    ),
    fault(
        "training without noise",
        "app/text.py",
        "loop, key if model.noisy else None)",
        "loop, None)",
        "app/test_layers_and_dropout.py::test_noise_is_the_same_under_every_loop_and_gone_when_scoring[bptt]",
    ),
    fault(
        "one noise on all devices",
        "sharding.py",
        "jax.random.fold_in(x, jax.lax.axis_index(AXIS)) if is_key else x",
        "x",
        "app/test_layers_and_dropout.py::test_each_device_draws_noise_of_its_own",
    ),
    fault(
        "no noise behind a cell",
        "app/options.py",
        "[cell, dropout(dropout_rate)] if dropout_rate",
        "[cell] if dropout_rate",
        "app/test_text.py::test_dropout_is_behind_the_embedding_and_behind_each_cell",
    ),
    fault(
        "inputs scored as targets",
        "app/text.py",
        "for i in (0, 1))\n    carry, nats = model.initial_carry((streams,)), 0.0",
        "for i in (1, 0))\n    carry, nats = model.initial_carry((streams,)), 0.0",
        "app/test_text.py::test_streams_are_scored_side_by_side",
    ),
    fault(
        "a first token of no model",
        "app/text.py",
        "sampled(model.output(params, carry),",
        "sampled(0 * model.output(params, carry),",
        "app/test_text.py::test_without_a_prompt_the_first_token_is_what_the_zero_state_expects",
    ),
    fault(
        "a title cut off",
        "app/figures.py",
        "if width > room:",
        "if width > 9 * room:",
        "app/test_inspect.py::test_a_long_title_gets_a_smaller_font_and_a_short_one_does_not",
    ),
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


def law(planted: Fault, kind: str) -> str:
    """The test that has to turn red."""
    if kind == "around":
        return f"tests/{planted.cell}"
    laws = "tests/test_laws.py::test"
    if kind == "forward":
        return f"{laws}_forward_equals_the_equations_in_numpy[{planted.cell}]"
    if planted.cell == "plain":
        return f"{laws}_contributions_of_single_steps_sum_to_the_gradient[elman]"
    return f"{laws}_values_and_gradient_equal_autodiff[{planted.loop}-{planted.cell}]"


def planted_in(library: Path, planted: Fault) -> str:
    """The file with the fault in it; an error where its texts do not stand there once."""
    text = (library / planted.file).read_text()
    for old, new in planted.edits:
        if text.count(old) != 1:
            raise RuntimeError(f"{planted.name}: {old!r} stands {text.count(old)} times")
        text = text.replace(old, new)
    return text


def is_red(tree: Path, *command: str) -> bool:
    """Whether a Python command fails in `tree`; exit codes above 1 are no verdict."""
    env = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, *command], cwd=tree, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.returncode == 1


def caught_by(planted: Fault, kind: str) -> dict[str, bool]:
    """Plant one fault and ask each judge that has to see it."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("jaxrnn", "tests"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        library = tree / "jaxrnn"
        (library / planted.file).write_text(planted_in(library, planted))
        test = law(planted, kind)
        judges = {
            "laws": is_red(
                tree, "-m", "pytest", "-x", "-n0", "-m", "", "-p", "no:cacheprovider", test
            )
        }
        if kind == "backward":
            judges["certificate"] = is_red(tree, "-c", CERTIFY, planted.cell, planted.loop)
        return judges


def main(chosen: str = "") -> int:
    """Plant all faults whose name or file contains `chosen`; say of each what caught it."""
    unseen = 0
    for kind, faults in (("backward", BACKWARD), ("forward", FORWARD), ("around", AROUND)):
        for planted in faults:
            if chosen not in planted.name and chosen not in planted.file:
                continue
            judges = caught_by(planted, kind)
            unseen += not all(judges.values())
            verdict = ", ".join(
                f"{name} {'red' if red else 'GREEN'}" for name, red in judges.items()
            )
            print(f"{planted.file:30} {kind:8} {planted.name:28} {verdict}", flush=True)
    print(f"{unseen} unseen")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
