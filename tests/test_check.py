"""Bad input, one table: each case raises our own error, by name, before anything is compiled.

The table holds pairs of a message and the call that gets it; `...` stands for anything.
"""

import builtins
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import LSTMCarry

T, B, I, H = 5, 3, 2, 4


def array(*shape, dtype=np.float64):
    """Zeros, made without compiling anything; at import, so 64 bits have to be asked for."""
    with jax.enable_x64(True):
        return jax.device_put(np.zeros(shape, dtype))


def weights(gates, *, hidden=H, dtype=np.float64, **more):
    shapes = {"w_x": (I, gates * hidden), "w_h": (hidden, gates * hidden)}
    shapes |= {"b": (gates * hidden,), **more}
    return {name: array(*shape, dtype=dtype) for name, shape in shapes.items()}


def memory(*lead, hidden=H, dtype=np.float64):
    return LSTMCarry(array(*lead, hidden, dtype=dtype), array(*lead, hidden, dtype=dtype))


ELMAN, GRU, LSTM = jaxrnn.elman(H), jaxrnn.gru(H), jaxrnn.lstm(H)
GRU_PARAMS, LSTM_PARAMS = weights(3, b_n=(H,)), weights(4)
XS, CARRY = array(T, B, I), memory(B)


def loops(step, params, carry, xs):
    """The calls by which a step runs over a sequence."""
    return {
        "unroll": partial(jaxrnn.unroll, step, params, xs, carry=carry),
        "scan": partial(jaxrnn.scan, step, params, carry, xs),
        "bptt": partial(jaxrnn.bptt, step, params, carry, xs),
        "truncated": partial(jaxrnn.truncated(2), step, params, carry, xs),
    }


def every_way(cell, params, carry, xs):
    """The calls by which a cell takes steps, streaming too."""
    x = array(*xs.shape[1:], dtype=xs.dtype)
    return {**loops(cell, params, carry, xs), "one step": lambda: cell(params, carry, x)}


def unrolled(xs, *, cell=GRU, params=GRU_PARAMS, **keywords):
    """The call without a carry."""
    return partial(jaxrnn.unroll, cell, params, xs, **keywords)


def wrong_xs():
    yield from {
        "ValueError: xs: got float64[] for one step, expected (*batch, fe": unrolled(array(8)),
        "ValueError: xs: got float64[], expected a leading time axis": unrolled(array()),
        "ValueError: xs: got None, ...expected at least one with a time axis": unrolled(None),
        "ValueError: xs: got (), ...expected at least one with a time axis": unrolled(()),
        "ValueError: xs[0]: got float, expected a leading time axis": unrolled([1.0]),
        "TypeError: xs: got list, expected an array for gru": unrolled([XS]),
        "ValueError: xs: got ...'xs[1]': 4}, expected one size T": unrolled((XS, array(4, B, 2))),
    }.items()
    for message, xs in {
        "ValueError: xs: got float64[...9], expected a last axis of size 2": array(T, B, 9),
        "TypeError: xs: got int64[...], expected floating point for gru": array(T, B, 2, dtype=int),
        "TypeError: xs: got bool[...], expected floating point for gru": array(T, B, 2, dtype=bool),
        "TypeError: xs: got complex128[...], expected floatin": array(T, B, 2, dtype=complex),
    }.items():
        calls = every_way(GRU, GRU_PARAMS, array(B, H), xs) | {"no carry": unrolled(xs)}
        yield from ((message, call, way) for way, call in calls.items())


def wrong_carries():
    h = array(B, H)
    for message, carry in {
        "TypeError: carry: got the tree PyTreeDef(*), expected ...LSTMCarry": h,
        "TypeError: carry: got the tree PyTreeDef((*, *)), expected ...LSTMCarry": (h, h),
        "TypeError: carry: got the tree PyTreeDef(None), expected ...LSTMCarry": None,
        "ValueError: carry.h: got float64[2,4], expected float64[3,4]": memory(2),
        "ValueError: carry.h: got float64[1,4], expected float64[3,4]": memory(1),
        "ValueError: carry.h: got float64[4], expected float64[3,4]": memory(),
        "ValueError: carry.h: got float64[1,3,4], expected float64[3,4]": memory(1, B),
        "ValueError: carry.h: got float64[3,5], expected float64[3,4]": memory(B, hidden=5),
        "ValueError: carry.c: got float64[1,4], expected float64[3,4]": LSTMCarry(h, array(1, H)),
        "TypeError: carry.h: got float32[3,4], expected float64": memory(B, dtype=np.float32),
        "TypeError: carry.h: got int64[3,4], expected float64[3,4]": memory(B, dtype=int),
    }.items():
        calls = every_way(LSTM, LSTM_PARAMS, carry, XS)
        if carry is None:
            del calls["unroll"]  # which begins with zeros
        yield from ((message, call, way) for way, call in calls.items())
    calls = every_way(LSTM, LSTM_PARAMS, CARRY, array(T, 1, I))
    message = "ValueError: carry.h: got float64[3,4], expected float64[1,4]"
    yield from ((message, call, way) for way, call in calls.items())


def wrong_params():
    two = {name: LSTM_PARAMS[name] for name in ("w_x", "b")}
    mixed = {**LSTM_PARAMS, "b": array(4 * H, dtype=np.float32)}
    lstms = "expected the arrays ['b', 'w_h', 'w_x'] of lstm"
    for message, params in {
        f"TypeError: params: got ['b', 'b_n', 'w_h', 'w_x'], {lstms}": GRU_PARAMS,
        f"TypeError: params: got ['b', 'w_x'], {lstms}": two,
        f"TypeError: params: got ['b', 'w', 'w_h', 'w_x'], {lstms}": weights(4, w=(1,)),
        f"TypeError: params: got NoneType, {lstms}": None,
        "TypeError: params: got the dtypes ['float32', 'float64'], expected one for lstm": mixed,
        "ValueError: params['w_x']: got float64[2,4], expected [any,16] for lstm": weights(1),
        "ValueError: params['w_x']: got float64[2,20], expected [any,16]": weights(4, hidden=5),
        "TypeError: params['w_x']: got int64, expected a floating-p": weights(4, dtype=int),
        "TypeError: params['w_x']: got complex128, expected a float": weights(4, dtype=complex),
        "TypeError: params['b']: got NoneType, expected an array": {**LSTM_PARAMS, "b": None},
    }.items():
        calls = every_way(LSTM, params, CARRY, XS)
        calls["no carry"] = unrolled(XS, cell=LSTM, params=params)
        yield from ((message, call, way) for way, call in calls.items())
    from_json = unrolled(XS, cell=LSTM, params={**LSTM_PARAMS, "b": [0.0] * 4 * H})
    lstms_for_elman = unrolled(XS, cell=ELMAN, params=LSTM_PARAMS)
    yield from {
        "TypeError: params['b']: got list, expected an array for lstm": from_json,
        "ValueError: params['w_x']: got float64[2,16], expected [any,4] for elman": lstms_for_elman,
    }.items()


def wrong_sizes():
    for title, make, name in (
        ("elman", jaxrnn.elman, "hidden_size"),
        ("gru", jaxrnn.gru, "hidden_size"),
        ("lstm", jaxrnn.lstm, "hidden_size"),
        ("peephole_lstm", jaxrnn.peephole_lstm, "hidden_size"),
        ("layer_norm_lstm", jaxrnn.layer_norm_lstm, "hidden_size"),
        ("layer_norm_gru", jaxrnn.layer_norm_gru, "hidden_size"),
        ("projected_lstm", lambda size: jaxrnn.projected_lstm(size, 2), "hidden_size"),
        ("projected_lstm", partial(jaxrnn.projected_lstm, 2), "projection_size"),
        ("linear", jaxrnn.linear, "output_size"),
        ("embedding", jaxrnn.embedding, "output_size"),
        ("truncated", jaxrnn.truncated, "k1"),
        ("lstm.init", partial(LSTM.init, None), "input_size"),
        ("linear.init", partial(jaxrnn.linear(2).init, None), "input_size"),
        ("embedding.init", partial(jaxrnn.embedding(2).init, None), "input_size"),
    ):
        for value in (0, -3):
            message = f"ValueError: {name}: got {value}, expected an int of at least 1"
            yield message, partial(make, value), title
        for value in (True, 2.0, 2.5, "8", None):
            message = f"TypeError: {name}: got {value!r} of type {type(value).__name__}, expected a"
            yield message, partial(make, value), title


def wrong_options():
    not_a_loop = "TypeError: loop: got 'bptt' of type str, expected a function"
    not_floating = "TypeError: dtype: got ...int..., expected a floating-point dtype"
    yield not_a_loop, partial(jaxrnn.truncated, 4, loop="bptt"), "truncated"
    yield not_a_loop, unrolled(XS, loop="bptt"), "unroll"
    yield not_floating, partial(LSTM.init, None, I, int), "init"
    yield not_floating, partial(LSTM.initial_carry, (B,), int), "carry"
    unknown = partial(LSTM.init, None, I, "f9")
    yield from {
        "TypeError: dtype: got f9, expected a floating-point dtype": unknown,
        "TypeError: batch_shape: got 3 of type int, expected a tuple": partial(
            LSTM.initial_carry, B
        ),
        "TypeError: activation: got 'tanh' of type s": partial(jaxrnn.elman, H, activation="tanh"),
        "TypeError: reset_after: got 1 of type int, exp": partial(jaxrnn.gru, H, reset_after=1),
        "TypeError: forget_bias: got 'x' of type str": partial(jaxrnn.lstm, H, forget_bias="x"),
        "TypeError: forget_bias: got True of type bo": partial(jaxrnn.lstm, H, forget_bias=True),
        "TypeError: epsilon: got None of": partial(jaxrnn.layer_norm_gru, H, epsilon=None),
        "ValueError: epsilon: got 0, expected a n": partial(jaxrnn.layer_norm_gru, H, epsilon=0),
        "ValueError: epsilon: got nan,": partial(jaxrnn.layer_norm_lstm, H, epsilon=np.nan),
        "ValueError: k2: got 2, expected an int of at least k1 = 4": partial(
            jaxrnn.truncated, 4, 2
        ),
        "TypeError: reverse: got 1 of type int, expected a bool": unrolled(XS, reverse=1),
        "TypeError: cell: got None of type NoneType, expected a func": unrolled(XS, cell=None),
        "TypeError: step: got 3 of type int, expected a function": partial(
            jaxrnn.scan, 3, None, CARRY, XS
        ),
    }.items()


def wrong_steps():
    def step(result):
        return lambda params, carry, x: result(carry, x)

    for message, result in {
        "TypeError: step: got ..., expected (carry, y)": lambda c, x: c,
        "TypeError: step: got a tuple of 3, expected (carry, y)": lambda c, x: (c, x, x),
        "TypeError: step: got ...NoneType, expected (carry, y)": lambda c, x: None,
        "ValueError: carry: got float64[3,4], expected float64[1,4]": lambda c, x: (c[:1], x),
        "TypeError: carry: got float64[3,4], expected bool[3,4]": lambda c, x: (c > 0, x),
        "TypeError: carry: got ...(*), expected ...((*, *))": lambda c, x: ((c, c), x),
    }.items():
        calls = loops(step(result), None, array(B, H), XS)
        yield from ((message, call, way) for way, call in calls.items())
    no_carry = unrolled(XS, cell=step(lambda c, x: (c, x)))
    yield "ValueError: carry: got None, expected a carry, since a plain Step has no zero", no_carry


def wrong_certificates():
    def certify(*args, **keywords):
        return partial(jaxrnn.certify, *args, **keywords)

    plain = certify(lambda params, carry, x: (carry, x))
    three = "ValueError: params, carry, xs: got {} of the three, expected all"
    yield from {
        three.format(0) + " for a plain Step": plain,
        three.format(1) + " or none": certify(LSTM, LSTM_PARAMS),
        three.format(2) + " or none": certify(LSTM, LSTM_PARAMS, CARRY),
        "ValueError: num_draws: got 7, expected an int of at least 8": certify(LSTM, num_draws=7),
        "TypeError: num_draws: got 8.0 of type float, expected a Py": certify(LSTM, num_draws=8.0),
        "TypeError: seed: got 'x' of type str, expected a Pytho": certify(LSTM, seed="x"),
        "TypeError: loop: got 3 of type int, expected a function": certify(LSTM, loop=3),
        "TypeError: step: got 3 of type int, expected a function": certify(3),
    }.items()


def wrong_layers():
    hs, tokens = array(T, B, H), array(T, B, dtype=np.int32)
    of_linear, table = {"w_o": array(H, 2), "b_o": array(2)}, {"w_e": array(7, 2)}
    wide_linear, wide_table = {"w_o": array(H, 3), "b_o": array(3)}, {"w_e": array(7, 3)}
    linear, embedding = jaxrnn.linear(2).apply, jaxrnn.embedding(2).apply
    yield from {
        "ValueError: inputs: got float64[5,3,2], expected a last axis": partial(
            linear, of_linear, XS
        ),
        "TypeError: inputs: got int32[5,3], expected floating": partial(linear, of_linear, tokens),
        "TypeError: inputs: got list, expected an array for linear": partial(
            linear, of_linear, [hs]
        ),
        "ValueError: params['w_o']: got ...4,3], expected [any,2]": partial(
            linear, wide_linear, hs
        ),
        "TypeError: params: got ['w_e'], expected the arrays ['b_o',": partial(linear, table, hs),
        "TypeError: tokens: got float64[5,3,4], expected an array": partial(embedding, table, hs),
        "TypeError: tokens: got list, expected an array of integers": partial(
            embedding, table, [1]
        ),
        "ValueError: params['w_e']: got ...[7,3], exp": partial(embedding, wide_table, tokens),
        "TypeError: params: got ['b_o', 'w_o'], exp": partial(embedding, of_linear, tokens),
    }.items()


def wrong_losses():
    def mean(loss=optax.l2_loss, *, outputs=(T, B, 2), targets=(T, B, 2), mask=None):
        args = loss, array(*outputs), array(*targets)
        return partial(jaxrnn.masked_mean, *args, mask=mask)

    def broadcasting(outputs, targets):
        return jnp.broadcast_to(outputs, (T, *outputs.shape))

    one_row, other_time = array(T, 1, dtype=bool), array(4, dtype=bool)
    of_features = array(T, B, 2, dtype=bool)
    yield from {
        "TypeError: loss: got 3 of type int, expected a function": mean(3),
        "ValueError: targets: got float64[4,3,2], expected ...[5,3,2]": mean(targets=(4, B, 2)),
        "ValueError: targets: got float64[5,1,2], expected ...[5,3,2]": mean(targets=(T, 1, 2)),
        "ValueError: targets: got float64[], expected": mean(outputs=(), targets=()),
        "ValueError: loss: got losses float64[5,5,3,2], expected one": mean(broadcasting),
        "ValueError: loss: got losses float64[], exp": mean(lambda o, y: jnp.sum(o)),
        "ValueError: loss: got losses ..., expected one a step": mean(lambda o, y: 3.0),
        "TypeError: mask: got float64[5], expected an array of bool": mean(mask=array(T)),
        "TypeError: mask: got list, expected an array of bool": mean(mask=[True] * T),
        "ValueError: mask: got bool[4], expected the first axes of": mean(mask=other_time),
        "ValueError: mask: got bool[5,1], expected the first axes of": mean(mask=one_row),
        "ValueError: mask: got bool[5,3,2], expected ...features not": mean(mask=of_features),
    }.items()


OWN = {"loss": 1.0, "accuracy": 1.0}  # the first is a name of the trainer's


def wrong_training():
    def update(result):
        """An update with a loss that returns `result(its value, the carry)`."""

        def loss(params, carry, batch, key):
            return result(jnp.sum(params["w"]), carry)

        params, optimizer = {"w": array(2)}, optax.sgd(0.1)
        step, key = array(dtype=np.int32), array(2, dtype=np.uint32)
        state = jaxrnn.training.TrainState(params, optimizer.init(params), (array(2),), step, key)
        return lambda: jax.jit(jaxrnn.training.trainer(loss, optimizer).update)(state, None)

    form = "expected (loss, (carry, metrics))"
    yield from {
        "TypeError: loss: got 3 of type int, expected": partial(
            jaxrnn.training.trainer, 3, optax.sgd(0.1)
        ),
        "TypeError: optimizer: got 'adam'..., expected": partial(
            jaxrnn.training.trainer, len, "adam"
        ),
        f"TypeError: loss: got ..., {form}": update(lambda v, c: v),
        f"TypeError: loss: got a tuple of 2, {form}": update(lambda v, c: (v, c)),
        "ValueError: loss: got NoneType, expected a ": update(lambda v, c: (None, (c, {}))),
        "ValueError: loss: got float64[2], expected a": update(lambda v, c: (c[0], (c, {}))),
        "TypeError: loss: got bool, expected a floati": update(lambda v, c: (v > 0, (c, {}))),
        "TypeError: loss: got metrics of int, expecte": update(lambda v, c: (v, (c, 3))),
        "ValueError: loss: got metrics named ['loss'], exp": update(lambda v, c: (v, (c, OWN))),
        "TypeError: carry: got ...(*), expected ...((": update(lambda v, c: (v, (c[0], {}))),
        "ValueError: carry[0]: got float64[], expecte": update(lambda v, c: (v, ((v,), {}))),
        "TypeError: carry[0]: got bool[2], expected f": update(lambda v, c: (v, ((c[0] > 0,), {}))),
    }.items()


NET = jaxrnn.stacked(jaxrnn.gru(H), jaxrnn.lstm(H))
NET_PARAMS = (GRU_PARAMS, {**weights(4), "w_x": array(H, 4 * H)})
NOISY = jaxrnn.transforms.zoneout(GRU, 0.1)
MARKS, KEY = array(T, B, dtype=bool), jax.eval_shape(lambda: jax.random.key(0))


def wrong_marks():
    two = unrolled(XS, mask=MARKS, lengths=array(B, dtype=int))
    plain = partial(jaxrnn.unroll, lambda params, carry, x: (carry, x), None, XS)
    counting, carry = {"h": array(B, H), "n": array(dtype=int)}, array(B, H)
    start = partial(unrolled, XS, reset=MARKS)
    for call in (unrolled, partial(unrolled, cell=NET, params=NET_PARAMS)):
        for name in ("mask", "reset"):
            for message, marks in {
                "TypeError: {}: got float64[5,3], expected an array of bool": array(T, B),
                "TypeError: {}: got int64[5,3], expected an array of bool": array(T, B, dtype=int),
                "TypeError: {}: got list, expected an array of bool": [[True] * B] * T,
                "ValueError: {}: got bool[], expected a leading": array(dtype=bool),
                "ValueError: {}: got bool[4,3], expected a leading axis of T = 5": MARKS[:4],
                "ValueError: {}: got the batch axes (), expected (3,)": MARKS[:, 0],
                "ValueError: {}: got the batch axes (1,), expected (3,)": MARKS[:, :1],
                "ValueError: {}: got the batch axes (3, 4), ex": array(T, B, H, dtype=bool),
            }.items():
                yield message.format(name), call(XS, **{name: marks})
    yield from {
        "ValueError: lengths: got both mask and lengths, expected one": two,
        "TypeError: lengths: got float64[3], expected an array of int": unrolled(
            XS, lengths=array(B)
        ),
        "TypeError: lengths: got list, expected an array of integers": unrolled(
            XS, lengths=[1, 2, 3]
        ),
        "ValueError: lengths: got the batch axes (2,), expected (3,)": unrolled(
            XS, lengths=array(2, dtype=int)
        ),
        "ValueError: lengths: got [-1, 6], expected integers from 0 to T = 5": unrolled(
            XS, lengths=np.array([6, 2, -1])
        ),
        "TypeError: steps: got 2.0 of type float": partial(
            jaxrnn.lengths_to_mask, array(B, dtype=int), 2.0
        ),
        "ValueError: reset_carry: got a carry and no reset, expected both": unrolled(
            XS, reset_carry=carry
        ),
        "ValueError: reset_carry: got float64[1,4], expected float64[3,4]": start(
            reset_carry=array(1, H)
        ),
        "TypeError: reset_carry: got float32[3,4], expected float64": start(
            reset_carry=array(B, H, dtype=np.float32)
        ),
        "TypeError: reset_carry: got the tree ...LSTMCarry...expected PyTreeDef(*)": start(
            reset_carry=CARRY
        ),
        "ValueError: reset_carry: got None, expected a carry, since a plain": partial(
            plain, carry=carry, reset=MARKS
        ),
        "ValueError: reset_carry: got float64[2,4], expected float64[3,4], as the carry": partial(
            plain, carry=carry, reset=MARKS, reset_carry=array(2, H)
        ),
        "ValueError: mask: got the batch axes (3,), ...; carry['n'] is int64[]": partial(
            plain, carry=counting, mask=MARKS
        ),
        "ValueError: mask: got [5, 2], expected axes that all floats of xs begin with": partial(
            plain, carry=array(2, H), mask=MARKS[:, :2]
        ),
        "TypeError: fill_value: got 'x' of type str, expected a number": unrolled(
            XS, fill_value="x"
        ),
        "TypeError: key: got int, expected a key": unrolled(XS, cell=NOISY, key=3),
        "TypeError: key: got float64[2], expected a key": unrolled(XS, cell=NOISY, key=array(2)),
        "ValueError: key: got a key, expected None, since nothing in the cell draws": unrolled(
            XS, key=array(2, dtype=np.uint32)
        ),
    }.items()


def wrong_networks():
    x = array(B, I)
    both = jaxrnn.bidirectional(GRU)
    narrow = jaxrnn.residual(GRU)
    unnet = partial(unrolled, cell=NET)
    yield from {
        "ValueError: parts: got none, expected at least one": jaxrnn.stacked,
        "TypeError: parts[1]: got int, expected a Cell, Layer or Network": partial(
            jaxrnn.stacked, GRU, 3
        ),
        "TypeError: forward: got function, expected a Cell": partial(jaxrnn.bidirectional, array),
        "TypeError: backward: got int, expected a Cell": partial(jaxrnn.bidirectional, GRU, 3),
        "TypeError: merge: got 'sum' of type str, expected a func": partial(
            jaxrnn.bidirectional, GRU, merge="sum"
        ),
        "TypeError: part: got NoneType, expected a Cell, Layer or": partial(jaxrnn.residual, None),
        "TypeError: params: got dict, expected a tuple of 2, one for each part": unnet(
            XS, params=GRU_PARAMS
        ),
        "TypeError: params: got a tuple of 1, expected a tuple of 2": unnet(
            XS, params=NET_PARAMS[:1]
        ),
        "ValueError: xs: got float64[3,4], expected a last axis of size 2 for lstm": unnet(
            XS, params=(GRU_PARAMS, LSTM_PARAMS)
        ),
        "TypeError: carry: got the tree ..., expected PyTreeDef((*, ": unnet(
            XS, params=NET_PARAMS, carry=CARRY
        ),
        "TypeError: carry: got float64[3,4], expected a tuple of 2": partial(
            NET, NET_PARAMS, array(B, H), x
        ),
        "TypeError: step: got a bidirectional network, expected one that runs forw": partial(
            jaxrnn.bptt, both, None, None, XS
        ),
        "ValueError: part: got outputs float64[5,3,4], expected the shape of": unrolled(
            XS, cell=narrow, params=GRU_PARAMS
        ),
        "TypeError: carry: got the carry of a residual network, expected": partial(
            narrow.output, GRU_PARAMS, array(B, H)
        ),
        "ValueError: carry: got the carry of Layers only, expected": partial(
            jaxrnn.stacked(jaxrnn.linear(2)).output, ({},), ((),)
        ),
        "ValueError: input_size: got 0, expected an int": partial(NET.init, None, 0),
    }.items()


def wrong_transforms():
    for make in (jaxrnn.transforms.zoneout, jaxrnn.transforms.recurrent_dropout):
        yield "TypeError: cell: got function, expected a Cell", partial(make, array, 0.1)
    for name, make in {
        "rate": jaxrnn.dropout,
        "input_rate": lambda rate: jaxrnn.transforms.variational_dropout(GRU, input_rate=rate),
        "state_rate": lambda rate: jaxrnn.transforms.variational_dropout(GRU, state_rate=rate),
    }.items():
        for rate in (-0.1, 1, 1.5, float("nan")):
            message = f"ValueError: {name}: got {float(rate)}, expected a rate in [0, 1)"
            yield message, partial(make, rate)
        yield f"TypeError: {name}: got '0.5' of type str, expected a number", partial(make, "0.5")
    memory_less = jaxrnn.transforms.recurrent_dropout(ELMAN, 0.5)
    key = array(2, dtype=np.uint32)
    yield from {
        "ValueError: rate: got 1.0, expected a rate in [0, 1)": partial(
            jaxrnn.transforms.zoneout, LSTM, LSTMCarry(0.1, 1.0)
        ),
        "TypeError: rate: got the tree ...LSTMCarry..., expected PyTreeDef(*)": partial(
            jaxrnn.transforms.zoneout, GRU, LSTMCarry(0.1, 0.1)
        ),
        "ValueError: cell: got one without a candidate, expected one such as": unrolled(
            XS, cell=memory_less, params=weights(1), key=key
        ),
        "TypeError: step: got 3 of type int, expected a function": partial(
            jaxrnn.transforms.masked, 3
        ),
        "TypeError: step: got None of type NoneType, expected a fu": partial(
            jaxrnn.transforms.resettable, None
        ),
        "TypeError: learned: got 1 of type int, expected a bool": partial(
            jaxrnn.transforms.resettable, GRU, learned=1
        ),
        "ValueError: first: got float64[4], expected float64[3,2], as one step of": partial(
            jaxrnn.shift_right, array(4), XS
        ),
        "TypeError: first: got float32[3,2], expected float64[3,2]": partial(
            jaxrnn.shift_right, array(B, I, dtype=np.float32), XS
        ),
        "TypeError: feedback: got 'sample' of type str, expected a func": partial(
            jaxrnn.transforms.autoregressive, GRU, "sample"
        ),
    }.items()


TABLE = [
    pytest.param(*row[:2], id=", ".join(reversed((row[0], *row[2:]))))
    for rows in (
        wrong_xs,
        wrong_carries,
        wrong_params,
        wrong_sizes,
        wrong_options,
        wrong_steps,
        wrong_certificates,
        wrong_layers,
        wrong_losses,
        wrong_training,
        wrong_marks,
        wrong_networks,
        wrong_transforms,
    )
    for row in rows()
]


@pytest.fixture
def compiled():
    """Names of the programs compiled from here on; what was compiled before counts again."""
    names = []

    def listen(event, duration, **keywords):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(keywords.get("fun_name", event))

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(("message", "bad_call"), TABLE)
def test_bad_input_raises_our_error_before_anything_compiles(
    message, bad_call, own_messages, compiled
):
    error, text = message.split(": ", 1)
    pattern = "(?s)^" + ".*".join(map(re.escape, text.split("...")))
    with pytest.raises(getattr(builtins, error), match=pattern):
        bad_call()
    assert compiled == []
    with pytest.raises(getattr(builtins, error), match=pattern):
        jax.eval_shape(bad_call)


def test_a_compilation_is_seen(compiled):
    x = array(T, B)
    assert compiled == []
    jnp.sin(x)
    jnp.sin(x)
    assert len(compiled) == 1


@pytest.mark.parametrize("way", every_way(LSTM, LSTM_PARAMS, CARRY, XS))
def test_good_input_is_not_refused(way, own_messages):
    carry, y = every_way(LSTM, LSTM_PARAMS, CARRY, XS)[way]()
    assert carry.h.shape == (B, H)
    assert y.shape == ((B, H) if way == "one step" else (T, B, H))
