"""A user's own Cell, with and without a backward pass, under every loop and transformation."""

import builtins
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_interchangeable
from reference import distance
from test_laws import judge_of
from test_networks import with_gradient

import jaxrnn
from jaxrnn import transforms
from jaxrnn.loops import backend

T, B, I = 7, 3, 2
LOOPS = dict(jaxrnn.LOOPS)


@dataclasses.dataclass(frozen=True)
class Leaky(jaxrnn.Cell):
    """Two leaky sums of tanh(x w), by name: a carry that is a dict."""

    slow: float = 0.9
    fast: float = 0.5

    def init(self, key, input_size, dtype=jnp.float32):
        return {"w": jax.random.normal(key, (input_size, 1), dtype)}

    def initial_carry(self, batch_shape=(), dtype=jnp.float32):
        zeros = jnp.zeros((*batch_shape, 1), dtype)
        return {"slow": zeros, "fast": zeros + 0}

    def project(self, params, xs):
        return xs @ params["w"]

    def advance(self, w, carry, z):
        rates = {"slow": self.slow, "fast": self.fast}
        return jax.tree.map(lambda a, c: a * jnp.tanh(c) + z, rates, carry), ()

    def output(self, params, carries):
        return carries["slow"] * carries["fast"]


@dataclasses.dataclass(frozen=True)
class LeakyByHand(Leaky):
    """The same, with its backward pass."""

    def adjoint(self, w, residuals, d_carry):
        rates = {"slow": self.slow, "fast": self.fast}
        previous = residuals.previous_carry
        d_previous = jax.tree.map(
            lambda a, d, c: a * d * (1 - jnp.tanh(c) ** 2), rates, d_carry, previous
        )
        return d_previous, d_carry["slow"] + d_carry["fast"]

    def gradients(self, w, residuals, deltas):
        return jax.tree.map(jnp.zeros_like, w), deltas


class Plain(jaxrnn.Layer):
    """No dataclass: it equals itself alone."""

    def init(self, key, input_size, dtype=jnp.float32):
        return ()

    def apply(self, params, inputs):
        return 2 * inputs


CELLS = {"derived": Leaky(0.8), "handwritten": LeakyByHand(0.8)}
every_cell = pytest.mark.parametrize("name", CELLS)


def problem(cell):
    rng = np.random.default_rng(0)
    params = cell.init(jax.random.key(0), I, jnp.float64)
    carry = jax.tree.map(lambda c: c + 0.3, cell.initial_carry((B,), jnp.float64))
    return params, carry, jnp.asarray(rng.standard_normal((T, B, I)))


@every_cell
def test_it_says_whether_it_has_a_backward_pass(name):
    cell = CELLS[name]
    assert cell.has_handwritten_backward == (name == "handwritten")
    assert_interchangeable(type(cell)(0.8), cell)
    assert cell != type(cell)(0.7)
    assert CELLS["derived"] != CELLS["handwritten"]


@every_cell
@pytest.mark.parametrize("loop_name", LOOPS)
def test_it_runs_under_every_loop(loop_name, name):
    cell, loop = CELLS[name], LOOPS[loop_name]
    args = problem(cell)
    rng = np.random.default_rng(1)
    mask, reset = (jnp.asarray(rng.random((T, B)) < chance) for chance in (0.7, 0.3))

    def run(loop):
        return lambda params, carry, xs: jaxrnn.unroll(
            cell, params, xs, carry=carry, loop=loop, mask=mask, reset=reset
        )

    got, wanted = (with_gradient(run(some), *args) for some in (loop, judge_of(loop)))
    assert distance(got, wanted) < 1e-12


@every_cell
def test_it_has_a_certificate(name):
    certificate = jaxrnn.certify(CELLS[name], *problem(CELLS[name]))
    assert certificate.ok, str(certificate)
    assert {row.backward for row in certificate.rows} == {name}


RATES = [0.3, {"slow": 0.3, "fast": 0.0}]


@every_cell
@pytest.mark.parametrize("rate", RATES, ids=["one", "dict"])
@pytest.mark.parametrize("make", [transforms.zoneout, transforms.detach_adjoint])
def test_rates_may_be_a_dict(make, rate, name):
    """As the carry is; the cell that holds it has a hash all the same."""
    cell = make(CELLS[name], rate)
    assert_interchangeable(cell, make(CELLS[name], rate))
    assert cell != make(CELLS[name], 0.2)
    assert cell.has_handwritten_backward == (name == "handwritten")
    args, key = problem(cell), jax.random.key(2)

    def run(loop, **options):
        return lambda params, carry, xs: jaxrnn.unroll(
            cell, params, xs, carry=carry, loop=loop, **options
        )

    for options in ({"key": key}, {}):
        got, wanted = (
            with_gradient(run(loop, **options), *args) for loop in (jaxrnn.bptt, jaxrnn.scan)
        )
        assert distance(got, wanted) < 1e-12


def test_it_stands_in_a_network_and_a_layer_need_not_be_a_dataclass():
    layer = Plain()
    net = jaxrnn.stacked(jaxrnn.residual(layer), CELLS["handwritten"], Plain())
    params, _, xs = problem(net)
    got = jaxrnn.unroll(net, params, xs)[1]
    assert distance(got, 2 * jaxrnn.unroll(CELLS["handwritten"], params[1], 3 * xs)[1]) < 1e-13
    assert "Plain" in repr(net)
    assert layer != Plain()


@pytest.mark.usefixtures("own_messages")
def test_a_cell_without_a_hash_is_named():
    @dataclasses.dataclass(frozen=True)
    class WithList(Leaky):
        sizes: list = dataclasses.field(default_factory=list)

    cell = WithList()
    message = r"step: got .*WithList.*\(unhashable type: 'list'\), expected one with a hash"
    with pytest.raises(TypeError, match=message):
        jaxrnn.unroll(cell, *problem(cell)[::2])


@pytest.mark.usefixtures("own_messages")
@pytest.mark.parametrize("loop_name", LOOPS)
def test_an_advance_that_saves_nothing_still_returns_a_pair(loop_name):
    class NoPair(Leaky):
        def advance(self, w, carry, z):
            return carry

    cell = NoPair()
    with pytest.raises(TypeError, match=r"advance: got dict, expected \(carry, saved\)"):
        jaxrnn.unroll(cell, *problem(cell)[::2], loop=LOOPS[loop_name])


def wrong_cotangents():
    """The attribute that is wrong, its definition, and the message."""
    adjoint, rows = LeakyByHand.adjoint, []

    def wrong(name, message):
        return lambda function: rows.append((name, function, message))

    @wrong("adjoint", "TypeError: adjoint: got dict, expected (d_carry, deltas)")
    def _(self, w, residuals, d_carry):
        return adjoint(self, w, residuals, d_carry)[0]

    @wrong("adjoint", "TypeError: adjoint(...)[0]: got the tree ..., as d_carry")
    def _(self, w, residuals, d_carry):
        return d_carry["slow"], d_carry["slow"]

    @wrong(
        "adjoint",
        "ValueError: adjoint(...)[0]['fast']: got float64[1], expected float64[3,1], as d_carry",
    )
    def _(self, w, residuals, d_carry):
        d_previous, deltas = adjoint(self, w, residuals, d_carry)
        return d_previous | {"fast": d_previous["fast"][0]}, deltas

    @wrong("adjoint", "TypeError: adjoint(...)[0]['slow']: got float32[3,1], expected float64[3,1]")
    def _(self, w, residuals, d_carry):
        d_previous, deltas = adjoint(self, w, residuals, d_carry)
        return d_previous | {"slow": d_previous["slow"].astype("float32")}, deltas

    @wrong("gradients", "TypeError: gradients: got float64[7,3,1], expected (d_w, d_zs)")
    def _(self, w, residuals, deltas):
        return deltas

    @wrong("gradients", "TypeError: gradients(...)[0]: got the tree ..., as w")
    def _(self, w, residuals, deltas):
        return w["w"], deltas

    @wrong("gradients", "ValueError: gradients(...)[0]['w']: got float64[2], expected float64[2,1]")
    def _(self, w, residuals, deltas):
        return {"w": w["w"][:, 0]}, deltas

    @wrong(
        "gradients",
        "ValueError: gradients(...)[1]: got float64[3,1], expected float64[7,3,1], as z of all",
    )
    def _(self, w, residuals, deltas):
        return w, deltas[0]

    return rows


@pytest.mark.usefixtures("own_messages")
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize(("attribute", "function", "message"), wrong_cotangents())
def test_cotangents_of_a_wrong_form_are_named(attribute, function, message, platform):
    """By both forms of `bptt`: the one that saves, and the one that recomputes."""
    cell = type("Wrong", (LeakyByHand,), {attribute: function})()
    params, carry, xs = problem(cell)

    def loss(params):
        return jnp.sum(jaxrnn.unroll(cell, params, xs, carry=carry)[1])

    error, text = message.split(": ", 1)
    pattern = "^" + ".*".join(map(re.escape, text.split("...,")))
    with backend.assume(platform), pytest.raises(getattr(builtins, error), match=pattern):
        jax.grad(loss)(params)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_none_is_a_cotangent_of_zero(platform):
    class NoWeights(LeakyByHand):
        def gradients(self, w, residuals, deltas):
            return None, deltas

    args = problem(LeakyByHand())
    with backend.assume(platform):
        got, wanted = (
            with_gradient(lambda *args, cell=cell: jaxrnn.bptt(cell, *args), *args)
            for cell in (NoWeights(), LeakyByHand())
        )
    assert distance(got, wanted) == 0


@pytest.mark.usefixtures("own_messages")
@pytest.mark.parametrize("transform", [lambda cell: cell, transforms.masked])
@pytest.mark.parametrize(("alone", "missing"), [("adjoint", "gradients"), ("gradients", "adjoint")])
def test_half_a_backward_pass_is_an_error(alone, missing, transform):
    cell = transform(type("Half", (Leaky,), {alone: getattr(LeakyByHand, alone)})())
    params, carry, xs = problem(LeakyByHand())
    if transform is transforms.masked:
        xs = transforms.MaskedInputs(xs, jnp.ones((T, B), bool))
    message = f"Half: got {alone} without {missing}, expected both of them, or neither"
    with pytest.raises(TypeError, match=message):
        jaxrnn.bptt(cell, params, carry, xs)
