"""Calls that are wrong, by the public name they belong to, and what each is answered.

Each row is a public name, the message, and the call; `...` in a message stands for anything. What
`tests/test_check.py` asserts of a cell's params, carry and inputs is not said again.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import with_functions
from test_check import (
    ELMAN,
    GRU,
    GRU_PARAMS,
    LSTM,
    XS,
    B,
    H,
    I,
    T,
    array,
    weights,
)

import jaxrnn
import jaxrnn.interop.safetensors
from jaxrnn import interop

CARRY, TOKENS = array(B, H), array(T, B, dtype=np.int32)
MASK = array(T, B, dtype=bool)
KEY, KEYS = array(2, dtype=np.uint32), array(3, 2, dtype=np.uint32)
STRUCT = jax.ShapeDtypeStruct((B,), np.int64)
STATE = jaxrnn.training.TrainState(
    GRU_PARAMS, (optax.EmptyState(),) * 2, CARRY, array(dtype=np.int32), KEY
)
OPTIMIZER = optax.sgd(0.1)
CELLS = (
    *("elman", "gru", "layer_norm_gru", "lstm", "lru", "mgu", "indrnn", "min_gru", "min_lstm"),
    *("rg_lru", "selective_ssm", "slstm", "mlstm", "delta_rule", "echo_state", "cfc"),
)
HORIZON = jaxrnn.diagnostics.MemoryHorizon(*(np.ones(shape) for shape in ((6, B), (6, B), B, B)))
HISTORY = jaxrnn.History(array(T, B, H), ())


def loss(params, xs, loop=jaxrnn.bptt):
    return jnp.sum(jaxrnn.unroll(GRU, params, xs, loop=loop)[1])


def no_loop(params, xs, loop):
    return loss(params, xs)


def vector(params, xs, loop):
    return jaxrnn.unroll(GRU, params, xs, loop=loop)[1]


def training_loss(params, carry, batch, key):
    return jnp.sum(batch), (carry, {})


def run(cell=GRU, params=GRU_PARAMS, xs=XS, carry=None, **more):
    return lambda: jaxrnn.unroll(cell, params, xs, carry=carry, **more)


def under_jit(loop):
    """Traced, since some loops draw or slice before they call another."""
    return jax.eval_shape(lambda xs: loop(GRU, GRU_PARAMS, CARRY, xs), XS)


def of_cells():
    key, number = (
        "TypeError: key: got {}, expected a key",
        "expected sizes that are ints of at least",
    )
    for name in CELLS:
        cell = getattr(jaxrnn, name)(H)
        for got, value in (("NoneType", None), ("int", 3), ("uint32[3,2]", KEYS), ("str", "x")):
            yield name, key.format(got), lambda c=cell, v=value: c.init(v, I)
        for sizes in ((-1,), (2.5,), ("a",)):
            message = f"ValueError: batch_shape: got {sizes}, {number}"
            yield name, message, lambda c=cell, v=sizes: c.initial_carry(v)
    nan = "ValueError: forget_bias: got nan, expected a finite number"
    for name in ("lstm", "peephole_lstm", "layer_norm_lstm"):
        yield name, nan, lambda m=name: getattr(jaxrnn, m)(H, forget_bias=np.nan)
    yield "slstm", nan, lambda: jaxrnn.slstm(H, forget_bias=np.nan)
    heads = "ValueError: num_heads: got 3, expected a divisor of hidden_size = 4"
    yield "slstm", heads, lambda: jaxrnn.slstm(H, num_heads=3)
    for message, shape in {
        "TypeError: spatial_shape: got [4, 4] of type list, expected a tuple": [4, 4],
        "ValueError: spatial_shape: got (), expected one to three sizes": (),
        "ValueError: spatial_shape: got 0, expected an int of at least 1": (4, 0),
    }.items():
        yield "conv_lstm", message, lambda s=shape: jaxrnn.conv_lstm(H, s)
    yield (
        "conv_lstm",
        "ValueError: kernel_size: got 0, expected an int of at least 1",
        lambda: jaxrnn.conv_lstm(H, (4,), kernel_size=0),
    )
    above = "ValueError: {}: got {}, expected a number above 0"
    for name in ("dt", "gamma", "epsilon"):
        options = {"dt": 0.1, "gamma": 1.0, "epsilon": 1.0, name: 0.0}
        call = lambda o=options: jaxrnn.cornn(H, **o)  # noqa: E731
        yield "cornn", above.format(name, 0.0), call
    yield (
        "cornn",
        "TypeError: carry: got a tuple of 2, expected a CoRNNCarry",
        lambda: jaxrnn.cornn(H, 1, 1, 1).output(None, (CARRY, CARRY)),
    )
    for name in ("spectral_radius", "leak", "input_scale", "density"):
        call = lambda n=name: jaxrnn.echo_state(H, **{n: -1})  # noqa: E731
        yield "echo_state", above.format(name, -1), call
    for name in ("leak", "density"):
        call = lambda n=name: jaxrnn.echo_state(H, **{n: 2})  # noqa: E731
        yield "echo_state", f"ValueError: {name}: got 2.0, expected a number above 0 and at", call
    backbone = "ValueError: backbone_size: got 0, expected an int of at least 1"
    yield "cfc", backbone, lambda: jaxrnn.cfc(H, backbone_size=0)
    cfc_params = {"w_x": array(I, 1), "w_h": array(1, 1), "b": array(1)}
    cfc_params |= {"w_o": array(1, 4), "b_o": array(4)}
    for message, dt in {
        "ValueError: xs.dt: got float64[5,3,1], expected a time for each": array(T, B, 1),
        "TypeError: xs.dt: got int32, expected a floating-point dtype": TOKENS,
    }.items():
        yield "TimedInputs", message, run(jaxrnn.cfc(1), cfc_params, jaxrnn.TimedInputs(XS, dt))
    images = jaxrnn.conv_lstm(1, (4, 4), kernel_size=1)
    image_params = {"w_x": array(1, 1, I, 4), "w_h": array(1, 1, 1, 4), "b": array(4)}
    spatial = "ValueError: xs: got float64[...], expected images of the spatial_shape (4, 4) for"
    yield "conv_lstm", spatial, run(images, image_params, array(T, B, 4, 5, I))
    key_size = "ValueError: key_size: got 0, expected an int of at least 1"
    for name in ("mlstm", "delta_rule"):
        make = getattr(jaxrnn, name)
        yield name, heads, lambda m=make: m(H, num_heads=3)
        yield name, key_size, lambda m=make: m(H, key_size=0)
    yield (
        "slstm",
        "TypeError: num_heads: got 2.0 of type float, expected a Python int",
        lambda: jaxrnn.slstm(H, num_heads=2.0),
    )
    yield (
        "slstm",
        "TypeError: carry: got a tuple of 2, expected an SLSTMCarry",
        lambda: jaxrnn.slstm(H).output(None, (CARRY, CARRY)),
    )
    yield "projected_lstm", nan, lambda: jaxrnn.projected_lstm(H, 2, forget_bias=np.nan)
    yield (
        "gru",
        "TypeError: gru.__init__() got an unexpected keyword",
        lambda: jaxrnn.gru(4, size=3),
    )
    traced = "TypeError: hidden_size: got ...Tracer, expected a Python int"
    yield "gru", traced, lambda: jax.eval_shape(lambda n: jaxrnn.gru(n).init, STRUCT)
    yield (
        "lstm",
        "TypeError: carry: got a tuple of 2, expected an LSTMCarry",
        lambda: LSTM.output(None, (CARRY, CARRY)),
    )
    yield "lru", "TypeError: params: got ['b', ", lambda: jaxrnn.lru(H).output(GRU_PARAMS, CARRY)
    s5, ssm = jaxrnn.s5(H, 4), jaxrnn.selective_ssm(H, input_projection=True)
    yield "s5", key.format("int"), lambda: s5.init(3, I)
    yield "s5", "TypeError: state_size: got 4.0 of type float", lambda: jaxrnn.s5(H, 4.0)
    yield "s5", "TypeError: params: got ['b', ", lambda: s5.output(GRU_PARAMS, CARRY)
    yield "s5", f"ValueError: batch_shape: got (-1,), {number}", lambda: s5.initial_carry((-1,))
    yield "rg_lru", "TypeError: c: got '8' of type str", lambda: jaxrnn.rg_lru(H, c="8")
    yield "rg_lru", "ValueError: input_size: got 3, exp", lambda: jaxrnn.rg_lru(H).init(KEY, 3)
    taken = "TypeError: carry: got float64[3,4], expected an SSMCarry"
    ssm_params = jax.eval_shape(lambda: ssm.init(jax.random.key(0), I))
    yield "SSMCarry", taken, lambda: ssm.output(ssm_params, CARRY)
    for name in ("linear", "embedding"):
        make = getattr(jaxrnn, name)
        yield name, key.format("NoneType"), lambda m=make: m(2).init(None, 3)
    for message, function in {
        "TypeError: activation: got the tree PyTreeDef(None), expected": lambda x: None,
        "ValueError: activation: got float32[], expected float32[2,3], as its": jnp.sum,
        "TypeError: activation: got bool[2,3], expected float32[2,3], as its": jnp.isnan,
        "TypeError: activation: got <lambda> (missing": lambda x, y: x,
    }.items():
        yield "elman", message, lambda f=function: jaxrnn.elman(H, activation=f)
    for name in ("layer_norm_gru", "layer_norm_lstm"):
        make, infinite = getattr(jaxrnn, name), "ValueError: epsilon: got inf, expected a finite"
        yield name, infinite, lambda m=make: m(H, epsilon=np.inf)
    yield "dropout", "TypeError: rate: got None of type", lambda: jaxrnn.dropout(None)
    net, both = jaxrnn.stacked(GRU, LSTM), jaxrnn.bidirectional(GRU)
    yield "stacked", key.format("NoneType"), lambda: net.init(None, I)
    yield "bidirectional", key.format("int"), lambda: both.init(3, I)
    yield "residual", key.format("int"), lambda: jaxrnn.residual(GRU).init(3, I)
    one_each = "TypeError: params: got {}, expected a tuple of 2, one for each part"
    yield "stacked", one_each.format("dict"), lambda: net.output(GRU_PARAMS, CARRY)
    yield "stacked", one_each.format("a tuple of 1"), lambda: net.output((GRU_PARAMS,), CARRY)
    yield "bidirectional", one_each.format("dict"), lambda: both.output(GRU_PARAMS, CARRY)
    for got, merge in (
        ("NoneType", lambda a, b: None),
        ("str", lambda a, b: "x"),
        ("float64[10,3,4]", lambda a, b: jnp.concatenate([a, b])),
    ):
        message = f"ValueError: merge: got {got}, expected arrays with the leading axes [5, 3]"
        cell, params = jaxrnn.bidirectional(GRU, merge=merge), (GRU_PARAMS, GRU_PARAMS)
        yield "bidirectional", message, run(cell, jaxrnn.Directions(*params))
    larger = weights(3, hidden=H + 1, b_n=(H + 1,))
    of_sizes = jaxrnn.bidirectional(GRU, jaxrnn.gru(H + 1), merge=jnp.add)
    two_sizes = "ValueError: merge: got float64[5,3,4] and float64[5,3,5] (..., expected outputs of"
    yield "bidirectional", two_sizes, run(of_sizes, jaxrnn.Directions(GRU_PARAMS, larger))
    size = (
        "ValueError: part: got outputs ...[1,4], expected the shape of its inputs ...[1,2], since"
    )
    yield "residual", size, lambda: jaxrnn.residual(GRU).init(KEY, I)
    yield (
        "bidirectional",
        "TypeError: merge: got <lambda> (too many",
        lambda: jaxrnn.bidirectional(GRU, merge=lambda ys: ys),
    )


def of_tokens():
    table = jaxrnn.embedding(I)
    net, params = jaxrnn.stacked(table, GRU), ({"w_e": array(7, I)}, GRU_PARAMS)
    features = "one that takes features"
    for name, message, call in (
        (
            "stacked",
            f"parts[1]: got one that takes tokens, expected {features}, as parts[0] b",
            GRU,
        ),
        ("stacked", "parts[1]: got one that takes tokens, expected", jaxrnn.dropout(0.1)),
    ):
        yield name, f"ValueError: {message}", lambda first=call: jaxrnn.stacked(first, net)
    both = "ValueError: backward: got one that takes 1 feature axes, expected one that takes no fea"
    yield "bidirectional", both, lambda: jaxrnn.bidirectional(net, GRU)
    added = f"ValueError: part: got one that takes tokens, expected {features}, since outputs"
    for part in (net, table):
        yield "residual", added, lambda part=part: jaxrnn.residual(part)
    start = ((), CARRY)
    for came, xs, carry in (
        ("float64[3]", array(T, B), start),
        ("float64[3]", array(T, B), None),
        ("float64[3,2]", XS, start),
        ("bool[3]", MASK, start),
    ):
        said = f"TypeError: xs: got {came} for one step, expected tokens, which are integers (*b"
        yield "unroll", said, run(net, params, xs, carry)
        yield "history", said, lambda x=xs, c=carry: jaxrnn.history(net, params, x, carry=c)
    wider = "ValueError: carry[1]: got float64[3,4], expected float64[3,1,4]"
    yield "unroll", wider, run(net, params, array(T, B, 1, dtype=int), start)
    yield "embedding", "TypeError: xs: got float64[3]", run(table, params[0], array(T, B))
    floats = "TypeError: xs: got int32[5,3], expected floating point for dropout (embed tokens fi"
    yield "dropout", floats, run(jaxrnn.dropout(0.1), (), TOKENS)
    yield "dropout", "TypeError: xs: got list", lambda: jaxrnn.dropout(0.1).apply((), [1.0])
    tokens = "TypeError: tokens: got float64[3], expected an array of integers"
    yield "stacked", tokens, lambda: net(params, start, array(B))
    of_tokens = with_functions(GRU, num_feature_axes=0)
    zero = "ValueError: input_rate: got 0.1, expected 0 for a cell that takes tokens"
    call = lambda: jaxrnn.transforms.variational_dropout(of_tokens, input_rate=0.1)  # noqa: E731
    yield "variational_dropout", zero, call
    rest = "TypeError: carry: got the tree PyTreeDef(*), expected PyTreeDef(())"
    yield "embedding", rest, run(table, params[0], TOKENS, CARRY)


def of_sequences():
    factory = "TypeError: loop: got {} (too many positional arguments), expected a function of 4"
    for name in ("truncated", "checkpointed", "randomized"):
        yield "unroll", factory.format(name), run(loop=getattr(jaxrnn, name))
    instance = (
        "TypeError: cell: got gru (too many pos...3 arguments, such as gru...not the class itself"
    )
    yield "unroll", instance, run(jaxrnn.gru, carry=CARRY)
    of_jax = "TypeError: loop: got jax.lax.scan, expected jaxrnn.scan, which takes the parameters"
    yield "unroll", of_jax, run(loop=jax.lax.scan)
    swapped = "TypeError: loss: got float64[5,3,4], expected a function"
    yield "masked_mean", swapped, lambda: jaxrnn.masked_mean(array(T, B, H), TOKENS, loss)
    pair = "TypeError: loop: got NoneType, expected (carry, ys)"
    yield "unroll", pair, run(carry=CARRY, loop=lambda *_: None)
    yield (
        "history",
        pair,
        lambda: jaxrnn.history(GRU, GRU_PARAMS, XS, carry=CARRY, loop=lambda *_: None),
    )
    begun = ", as the carry before the first step"
    for got, result in {
        "TypeError: loop(...)[0]: got the tree PyTreeDef((*,)), expected PyTreeDef(*)" + begun: (
            (CARRY,),
            XS,
        ),
        "ValueError: loop(...)[0]: got float64[4], expected float64[3,4]" + begun: (CARRY[0], XS),
        "TypeError: loop(...)[0]: got int32[3,4], expected float64[3,4]" + begun: (
            CARRY.astype(np.int32),
            XS,
        ),
        "ValueError: loop(...)[1]: got float64[4,3,2], expected a leading axis of T = 5": (
            CARRY,
            XS[1:],
        ),
        "ValueError: loop(...)[1]['y']: got float64[], expected a leading axis of T = 5": (
            CARRY,
            {"y": array()},
        ),
    }.items():
        for cell in (GRU, lambda params, carry, x: (carry, x)):
            yield "unroll", got, run(cell, carry=CARRY, loop=lambda *_, result=result: result)
    unknown = "TypeError: history() got an unexpected keyword argument 'masks'"
    yield "history", unknown, lambda: jaxrnn.history(GRU, GRU_PARAMS, XS, masks=MASK)
    for message, options in {
        "params['b']: got str, ": {"params": {**GRU_PARAMS, "b": "x"}},
        "params['b']: got ShapeDtypeStruct float64,": {
            "params": {**GRU_PARAMS, "b": jax.ShapeDtypeStruct((12,), np.float64)}
        },
        "xs: got ndarray object, ": {"xs": np.array([[1, None]])},
        "xs: got ndarray <U1, ": {"xs": np.array([["a"]])},
        "xs: got ShapeDtypeStruct float64,": {"xs": jax.ShapeDtypeStruct((T, I), np.float64)},
        "carry: got str,": {"carry": "zero"},
        "reset_carry: got str,": {"reset": MASK, "reset_carry": "zero"},
        "lengths: got ShapeDtypeStruct": {"lengths": STRUCT},
        "mask: got ShapeDtypeStruct": {"mask": jax.ShapeDtypeStruct((T, B), bool)},
    }.items():
        yield "unroll", f"TypeError: {message}...expected an array", run(**options)
    yield (
        "unroll",
        "ValueError: fill_value: got nan, expected a fin",
        run(mask=MASK, fill_value=np.nan),
    )
    lengths = "TypeError: lengths: got ShapeDtypeStruct"
    yield "lengths_to_mask", lengths, lambda: jaxrnn.lengths_to_mask(STRUCT, 3)
    axis = "ValueError: xs: got float64[3], expected one with an axis {}"
    for value in (1, 7, -9):
        call = lambda v=value: jaxrnn.to_time_major(array(3), axis=v)  # noqa: E731
        yield "to_time_major", axis.format(value), call
    for value in ("1", True, (0, 1)):
        call = lambda v=value: jaxrnn.to_time_major(XS, axis=v)  # noqa: E731
        yield "to_time_major", "TypeError: axis: got ...expected a Python int", call
    yield "to_time_major", "TypeError: xs: got str, expected", lambda: jaxrnn.to_time_major("abc")
    lead = "ValueError: rest: got float64[], expected a leading time axis"
    yield "shift_right", lead, lambda: jaxrnn.shift_right(array(), array())
    yield (
        "shift_right",
        "ValueError: rest: got leading (time) axes of sizes",
        lambda: jaxrnn.shift_right((array(), array()), (array(4), array(3))),
    )
    yield (
        "shift_right",
        "TypeError: first: got str, expected an array",
        lambda: jaxrnn.shift_right("a", XS),
    )
    step = lambda p, c: (c, c)  # noqa: E731
    for name in ("scan", "bptt"):
        yield (
            name,
            "TypeError: step: got <lambda> (too many",
            (lambda loop=name: getattr(jaxrnn, loop)(step, None, CARRY, XS)),
        )
    unordered = (
        "TypeError: params: got dict (Comparator raised ...), expected keys that can be sorted"
    )
    yield "unroll", unordered, run(params={**GRU_PARAMS, 1: CARRY})
    for loop in (jaxrnn.scan, jaxrnn.bptt, jaxrnn.checkpointed(), jaxrnn.truncated(2)):
        call = lambda loop=loop: loop(GRU, GRU_PARAMS, "abc", XS)  # noqa: E731
        yield "scan", "TypeError: carry: got str", call
    for name, made in (("truncated", (2,)), ("randomized", (KEY, 0.5)), ("checkpointed", ())):
        make, wrong = getattr(jaxrnn, name), "TypeError: loop: got <lambda> (too many"
        yield name, wrong, lambda m=make, a=made: m(*a, loop=lambda *, only: None)
        pair = "TypeError: loop: got NoneType, expected (carry, ys)"
        yield name, pair, lambda m=make, a=made: under_jit(m(*a, loop=lambda *_: None))

    newton = "ValueError: jacobian: got 'diagonal' for gru(4), in which a unit of the carry reads"
    yield "parallel", newton, lambda: jaxrnn.parallel()(GRU, GRU_PARAMS, CARRY, XS)
    yield "parallel", "ValueError: chunk: got 0", lambda: jaxrnn.parallel(chunk=0)
    inexact = {
        "truncated(4), whose gradient is truncated": jaxrnn.truncated(4),
        "randomized(0.5), whose gradient is stochastic": jaxrnn.randomized(KEY, 0.5),
    }
    for name, made in (("truncated", (2,)), ("randomized", (KEY, 0.5)), ("checkpointed", ())):
        make = getattr(jaxrnn, name)
        for got, inner in inexact.items():
            call = lambda m=make, a=made, i=inner: m(*a, loop=i)  # noqa: E731
            yield name, f"ValueError: loop: got {got}, expected an exact loop", call


def of_transforms():
    masked, resettable = jaxrnn.transforms.masked(GRU), jaxrnn.transforms.resettable(GRU)
    plain = lambda p, c, x: (c, x)  # noqa: E731
    begun = jaxrnn.transforms.ResetParams(GRU_PARAMS, CARRY)
    for name, inputs in (
        ("masked", "MaskedInputs"),
        ("resettable", "ResetInputs"),
        ("scale_carry_gradient", "ScaledInputs"),
        ("probe_adjoint", "ProbeInputs"),
    ):
        params = begun if name == "resettable" else GRU_PARAMS
        wanted = f"TypeError: xs: got ..., expected a {inputs}"
        make = getattr(jaxrnn.transforms, name)
        yield name, wanted, run(make(GRU), params)
        yield name, wanted, run(make(plain), params, carry=CARRY)
    for message, mask in {
        "TypeError: xs.mask: got float64[5,3], expected an array of bool": array(T, B),
        "TypeError: xs.mask: got NoneType, expected an array of bool": None,
        "ValueError: xs.mask: got bool[5,4], expected the axes [5, 3]": array(T, 4, dtype=bool),
    }.items():
        yield "masked", message, run(masked, xs=jaxrnn.transforms.MaskedInputs(XS, mask))
    other = jaxrnn.transforms.MaskedInputs(XS, array(T, 7, dtype=bool))
    rows = "ValueError: xs.mask: got the batch axes (7,), expected leading axes of"
    yield "masked", rows, run(jaxrnn.transforms.masked(plain), None, other, CARRY)
    yield (
        "masked",
        "ValueError: fill_value: got inf",
        lambda: jaxrnn.transforms.masked(GRU, fill_value=np.inf),
    )
    anew = jaxrnn.transforms.ResetInputs(XS, MASK)
    yield (
        "resettable",
        "TypeError: params: got dict, expected a ResetParams",
        run(resettable, xs=anew),
    )
    for message, start in {
        "TypeError: params.reset_carry: got the tree PyTreeDef(None)": None,
        "ValueError: params.reset_carry: got float64[1,4], expected float64[3,4]": array(1, H),
    }.items():
        call = run(resettable, jaxrnn.transforms.ResetParams(GRU_PARAMS, start), anew, CARRY)
        yield "resettable", message, call
    no_bool = jaxrnn.transforms.ResetInputs(XS, array(T, B))
    yield "resettable", "TypeError: xs.reset: got float64[5,3]", run(resettable, begun, no_bool)
    factor = jaxrnn.transforms.ScaledInputs(XS, array(T, B))
    yield (
        "scale_carry_gradient",
        "ValueError: xs.factor: got float64[3], expected one number",
        run(jaxrnn.transforms.scale_carry_gradient(GRU), xs=factor, carry=CARRY),
    )
    probe = jaxrnn.transforms.ProbeInputs(XS, array(T, B + 2))
    yield (
        "probe_adjoint",
        "ValueError: xs.probe: got float64[5], expected float64[3]",
        run(jaxrnn.transforms.probe_adjoint(GRU), xs=probe, carry=CARRY),
    )
    yield (
        "probe_adjoint",
        "TypeError: xs.probe: got the tree PyTreeDef(None)",
        run(
            jaxrnn.transforms.probe_adjoint(GRU),
            xs=jaxrnn.transforms.ProbeInputs(XS, None),
            carry=CARRY,
        ),
    )
    for message, factor in {
        "ValueError: factor: got float64[7], expected the shape of the si": lambda s: jnp.ones(7),
        "ValueError: factor: got NoneType, expected": lambda s: None,
    }.items():
        yield (
            "scale_adjoint",
            message,
            run(jaxrnn.transforms.scale_adjoint(GRU, factor), carry=CARRY),
        )
    yield (
        "scale_adjoint",
        "TypeError: factor: got <lambda> (too many",
        lambda: jaxrnn.transforms.scale_adjoint(GRU, lambda: 1),
    )
    rate = "ValueError: {}: got None, expected a rate in [0, 1)"
    yield "detach_adjoint", rate.format("rate"), lambda: jaxrnn.transforms.detach_adjoint(GRU, None)
    yield "zoneout", rate.format("rate"), lambda: jaxrnn.transforms.zoneout(GRU, None)
    form = "TypeError: rate: got the tree PyTreeDef({'a': *}), expected"
    for name in ("detach_adjoint", "zoneout"):
        make = getattr(jaxrnn.transforms, name)
        yield name, form, lambda m=make: m(GRU, {"a": 0.1})
        yield (
            name,
            "TypeError: rate: got the tree PyTreeDef((*, *)), expected PyTreeDef(CustomNode(namedt",
            lambda m=make: m(LSTM, (0.1, 0.2)),
        )
        cell = "TypeError: cell: got function, expected a Cell"
        yield name, cell, lambda m=make: m(plain, 0.1)
    net = jaxrnn.stacked(GRU, GRU)
    whole_net = (
        "TypeError: step: got stacked(...), expected a Cell or a plain Step; in a Network, t"
    )
    for name, options in {
        "clip_adjoint": {"limit": 1.0},
        "scale_adjoint": {"factor": jnp.sign},
        "masked": {},
        "resettable": {},
    }.items():
        make = getattr(jaxrnn.transforms, name)
        yield name, whole_net, lambda m=make, o=options: m(net, **o)
    yield (
        "clip_adjoint",
        "ValueError: limit: got nan",
        lambda: jaxrnn.transforms.clip_adjoint(GRU, np.nan),
    )
    yield (
        "variational_dropout",
        "TypeError: variational_dropout.__init__() takes 2",
        lambda: jaxrnn.transforms.variational_dropout(GRU, 0.1),
    )
    whole = "TypeError: xs: got MaskedInputs, expected an array (apply variational_dropout"
    cell, marked = (
        jaxrnn.transforms.variational_dropout(masked, input_rate=0.1),
        jaxrnn.transforms.MaskedInputs(XS, MASK),
    )
    yield "variational_dropout", whole, run(cell, xs=marked, key=KEY)
    yield (
        "recurrent_dropout",
        "TypeError: rate: got '1'",
        lambda: jaxrnn.transforms.recurrent_dropout(GRU, "1"),
    )
    generating = jaxrnn.transforms.autoregressive(GRU, lambda y, s: y)
    yield (
        "autoregressive",
        "TypeError: carry: got float64[3,4], expected (carry, x)",
        run(generating, xs=array(T), carry=CARRY),
    )
    yield (
        "autoregressive",
        "TypeError: feedback: got <lambda> (too",
        lambda: jaxrnn.transforms.autoregressive(GRU, lambda y: y),
    )


def of_losses_and_training():
    readout, entropy = jaxrnn.linear(7), optax.softmax_cross_entropy_with_integer_labels
    with_loss, params = jaxrnn.transforms.step_loss(GRU, readout, entropy), (GRU_PARAMS, weights(1))
    for target in (3, np.int32, None):
        wanted = "TypeError: target: got ..., expected a ShapeDtypeStruct"
        yield (
            "step_loss",
            wanted,
            lambda t=target: jaxrnn.transforms.step_loss(ELMAN, readout, entropy, target=t),
        )
    yield (
        "step_loss",
        "TypeError: xs: got float64[...], expected a StepLossInputs",
        run(with_loss, params),
    )
    for message, targets in {
        "TypeError: xs.targets: got float64[5,3], expected int32[5,3]": array(T, B),
        "ValueError: xs.targets: got int32[5,4], expected int32[5,3]": array(T, 4, dtype=np.int32),
        "TypeError: xs.targets: got the tree PyTreeDef(None)": None,
    }.items():
        yield (
            "step_loss",
            message,
            run(with_loss, params, jaxrnn.transforms.StepLossInputs(XS, targets)),
        )
    two = "TypeError: params: got {}, expected a tuple of 2, one for each part"
    for got, wrong in (("dict", GRU_PARAMS), ("a tuple of 1", params[:1])):
        yield (
            "step_loss",
            two.format(got),
            run(with_loss, wrong, jaxrnn.transforms.StepLossInputs(XS, TOKENS)),
        )
    for message, outputs, targets in (
        ("outputs: got NoneType,", None, XS),
        ("outputs: got a tuple of 2,", (CARRY, XS), XS),
        ("targets: got str,", XS, "abc"),
        ("targets: got ndarray object,", XS, np.full((T, B), None)),
    ):
        call = lambda o=outputs, t=targets: jaxrnn.masked_mean(optax.l2_loss, o, t)  # noqa: E731
        yield "masked_mean", f"TypeError: {message} expected an array", call
    init = jaxrnn.training.trainer(training_loss, OPTIMIZER).init
    yield "trainer", "TypeError: key: got int", lambda: init(GRU_PARAMS, 3)
    yield (
        "trainer",
        "TypeError: params['n']: got int64[]",
        lambda: init({"n": array(dtype=int)}, KEY),
    )
    yield "trainer", "TypeError: params: got str", lambda: init("x", KEY)
    for message, optimizer, metrics in (
        ("TypeError: state.opt_state: got the tree PyTreeDef((", optax.adam(0.1), {}),
        ("TypeError: metrics['a']: got str, expected an array", OPTIMIZER, {"a": "b"}),
    ):
        update = jaxrnn.training.trainer(
            lambda *_, m=metrics: (jnp.sum(XS), (CARRY, m)), optimizer
        ).update
        yield "trainer", message, lambda u=update: jax.eval_shape(u, STATE, XS)
    yield (
        "trainer",
        "TypeError: loss: got ...(too many",
        lambda: jaxrnn.training.trainer(len, OPTIMIZER),
    )
    windows = jaxrnn.training.truncated_trainer(training_loss, OPTIMIZER, 2, 4)
    for name, update in (
        ("trainer", jaxrnn.training.trainer(training_loss, OPTIMIZER).update),
        ("truncated_trainer", windows.update),
    ):
        for got, state in (("NoneType", None), ("dict", {}), ("float64[5,3,2]", XS)):
            wanted = f"TypeError: state: got {got}, expected a TrainState"
            yield name, wanted, lambda u=update, s=state: u(s, XS)
    without_carry = jaxrnn.training.truncated_trainer(
        lambda *_: (jnp.sum(XS), (CARRY, {})), OPTIMIZER, 2
    )
    yield (
        "truncated_trainer",
        "TypeError: carry: got float64[3,4], expected None, since the state has no carry; the argu",
        lambda: jax.eval_shape(without_carry.update, STATE._replace(carry=None), XS),
    )
    yield (
        "truncated_trainer",
        "ValueError: batch: got None, which has",
        lambda: windows.update(STATE, None),
    )


def of_diagnostics():
    effort = jaxrnn.diagnostics.newton_effort
    yield (
        "newton_effort",
        "TypeError: loop: got",
        lambda: effort(*(GRU, GRU_PARAMS, CARRY, XS), loop=jaxrnn.bptt),
    )
    yield (
        "newton_effort",
        "ValueError: xs: got no steps",
        lambda: effort(GRU, GRU_PARAMS, CARRY, array(0, B, I)),
    )
    yield (
        "parameter_influence",
        "ValueError: name: got 'w', expected one of ['b', 'b_n', 'w_h', 'w_x']",
        lambda: jaxrnn.diagnostics.parameter_influence(GRU, GRU_PARAMS, CARRY, XS, name="w"),
    )
    errors = jaxrnn.diagnostics.online_errors
    for learners, message in (
        (GRU, "TypeError: learners: got gru, expected a dict of learners, by name"),
        ({"a": GRU}, "TypeError: learners['a']: got"),
    ):
        call = lambda found=learners: errors(found, GRU_PARAMS, CARRY, XS)  # noqa: E731
        yield "online_errors", message, call
    run = jaxrnn.cudnn()
    yield "cudnn", "TypeError: step: got gru(", lambda: run(GRU, GRU_PARAMS, CARRY, XS)
    yield (
        "fused",
        "TypeError: interpret: got 1 of type int, expected a bool",
        lambda: jaxrnn.fused(interpret=1),
    )
    run_fused = jaxrnn.fused()
    yield (
        "fused",
        "ValueError: loop: got fused() on 'cpu', expected a TPU",
        lambda: run_fused(GRU, GRU_PARAMS, CARRY, XS),
    )
    traced = lambda function, *args: lambda: jax.eval_shape(function, *args)  # noqa: E731
    for name in (
        *("gradient_flow", "per_step_gradients", "truncation_bias"),
        *("adaptive_truncation", "locate_nonfinite"),
    ):
        function = getattr(jaxrnn.diagnostics, name)
        for message, wrong, params, args in (
            (
                "TypeError: loss: got <lambda> (got an unexpected",
                lambda p, x: 0.0,
                GRU_PARAMS,
                [XS],
            ),
            ("TypeError: loss: got loss (missing", loss, GRU_PARAMS, []),
            ("TypeError: params['b']: got str", loss, {**GRU_PARAMS, "b": "x"}, [XS]),
            ("ValueError: loss: got float64[5,3,4], expected a sca", vector, GRU_PARAMS, [XS]),
            ("ValueError: loss: got one that does not call its", no_loop, GRU_PARAMS, [XS]),
        ):
            yield name, message, lambda f=function, w=wrong, p=params, a=args: f(w, p, *a)
    for name in ("truncation_bias", "adaptive_truncation", "locate_nonfinite"):
        function, wanted = (
            getattr(jaxrnn.diagnostics, name),
            "TypeError: params...: got a traced float64[",
        )
        call = lambda f=function: jax.eval_shape(lambda p: f(loss, p, XS), GRU_PARAMS)  # noqa: E731
        yield name, wanted, call
    for message, options in {
        "ValueError: ks: got 0, expected an int": {"ks": [0]},
        "TypeError: ks: got 3 of type int": {"ks": 3},
        "TypeError: ks: got '12' of type str": {"ks": "12"},
        "TypeError: make: got 3 of type int": {"make": 3},
    }.items():
        call = lambda o=options: jaxrnn.diagnostics.truncation_bias(loss, GRU_PARAMS, XS, **o)  # noqa: E731
        yield "truncation_bias", message, call
    for message, states, mask in (
        ("ValueError: states: got None, which has no arrays", None, None),
        ("TypeError: states: got float64[5,3,4], expected a History, or a", array(T, B, H), None),
        ("TypeError: states: got float64[5,3,2], expected a Hi", (HISTORY, {"a": XS}), None),
        ("TypeError: mask: got list, expected an array of bool", HISTORY, [True]),
        ("ValueError: states.carries: got float64[5,3,4], ", HISTORY, array(T, 4, dtype=bool)),
    ):
        yield (
            "saturation",
            message,
            lambda s=states, m=mask: jaxrnn.diagnostics.saturation(s, mask=m),
        )
    some = "ValueError: carry: got int64[3], expected some floats"
    yield (
        "jacobian_spectrum",
        some,
        lambda: jaxrnn.diagnostics.jacobian_spectrum(
            lambda p, c, x: (c, x), None, array(B, dtype=int), XS
        ),
    )
    starts, x = array(7, H), array(I)
    for message, args, options in (
        ("TypeError: step: got 3 of type int", (3, GRU_PARAMS, starts, x), {}),
        ("ValueError: carry: got leading axes of [()]", (GRU, GRU_PARAMS, array(), x), {}),
        (
            "ValueError: carry: got leading axes of [(3,), (7,)]",
            (GRU, None, (CARRY, starts), x),
            {},
        ),
        ("ValueError: carry: got no starts", (GRU, GRU_PARAMS, array(0, H), x), {}),
        (
            "ValueError: carry: got float64[5], expected float",
            (GRU, GRU_PARAMS, array(7, 5), x),
            {},
        ),
        (
            "TypeError: carry: got float16[7,4], ex",
            (GRU, GRU_PARAMS, array(7, H, dtype="f2"), x),
            {},
        ),
        ("TypeError: carry: got no floating-p", (GRU, None, array(7, H, dtype=int), x), {}),
        (
            "ValueError: carry: got numbers that are n",
            (GRU, GRU_PARAMS, np.full((7, H), np.nan), x),
            {},
        ),
        ("ValueError: xs: got float64[3], expected a las", (GRU, GRU_PARAMS, starts, array(B)), {}),
        ("ValueError: x: got None, which has no arrays", (GRU, GRU_PARAMS, starts, None), {}),
        ("TypeError: params['b']: got str", (GRU, {**GRU_PARAMS, "b": "x"}, starts, x), {}),
        ("ValueError: tolerance: got 0", (GRU, GRU_PARAMS, starts, x), {"tolerance": 0}),
        (
            "ValueError: merge_distance: got -1",
            (GRU, GRU_PARAMS, starts, x),
            {"merge_distance": -1},
        ),
        ("ValueError: max_iterations: got 0", (GRU, GRU_PARAMS, starts, x), {"max_iterations": 0}),
    ):
        call = lambda a=args, o=options: jaxrnn.diagnostics.fixed_points(*a, **o)  # noqa: E731
        yield "fixed_points", message, call
    call = traced(lambda p: jaxrnn.diagnostics.fixed_points(GRU, p, starts, x), GRU_PARAMS)
    yield "fixed_points", "TypeError: params...: got a traced float64[", call
    yield (
        "memory_horizon",
        "TypeError: spectrum: got NoneType, expected a JacobianSpectrum",
        lambda: jaxrnn.diagnostics.memory_horizon(None),
    )
    for message, (horizon, options) in {
        "TypeError: horizon: got NoneType, expected a MemoryHorizon": (None, {}),
        "TypeError: spectrum: got MemoryHorizon, expected a JacobianSpectrum": (
            HORIZON,
            {"spectrum": HORIZON},
        ),
        "TypeError: gates: got list, expected a dict": (HORIZON, {"gates": [1]}),
        "ValueError: horizon: got no rows": (
            HORIZON._replace(decay_rate=np.ones(0)),
            {},
        ),
    }.items():
        call = lambda h=horizon, o=options: jaxrnn.diagnostics.diagnose(h, **o)  # noqa: E731
        yield "diagnose", message, call
    wanted = "TypeError: horizon...: got a traced float64"
    yield "diagnose", wanted, traced(jaxrnn.diagnostics.diagnose, HORIZON)
    for message, args, options in (
        ("ValueError: args: got none", (), {}),
        ("TypeError: args[0]: got str", ("x", XS), {}),
        ("TypeError: loops: got 3 of type int", (GRU_PARAMS, XS), {"loops": 3}),
        ("ValueError: loops: got none", (GRU_PARAMS, XS), {"loops": ()}),
        ("TypeError: loops['b']: got 'bptt'", (GRU_PARAMS, XS), {"loops": (("b", "bptt"),)}),
    ):
        call = lambda a=args, o=options: jaxrnn.diagnostics.memory_plan(loss, *a, **o)  # noqa: E731
        yield "memory_plan", message, call
    yield (
        "memory_plan",
        "ValueError: loss: got one that does not call its loop, expected one that calls it",
        lambda: jaxrnn.diagnostics.memory_plan(no_loop, GRU_PARAMS, XS),
    )
    plots = jaxrnn.diagnostics.plots
    for name in (
        *("gradient_flow", "saturation", "memory_horizon", "truncation_bias"),
        *("fixed_points", "eigenvalues"),
    ):
        wanted = (
            "TypeError: axes: got NoneType, expected matplotlib axes, such as plt.subplots()[1]"
        )
        yield name, wanted, lambda name=name: getattr(plots, f"plot_{name}")(None, 1)
    for message, options in {
        "TypeError: in_axes: got 0 of type int": {"in_axes": 0},
        "ValueError: in_axes: got -1, expected an int of at least 0": {"in_axes": (None, -1)},
        "TypeError: in_axes: got 'x' of type str": {"in_axes": (None, "x")},
        "ValueError: in_axes: got 1 axes for 2 arguments": {"in_axes": (0,)},
        "ValueError: devices: got []": {"in_axes": (None, 0), "devices": []},
        "ValueError: devices: got ['cpu']": {"in_axes": (None, 0), "devices": ["cpu"]},
        "TypeError: devices: got 2 of type int": {"in_axes": (None, 0), "devices": 2},
        "TypeError: weight: got 3 of type int": {"in_axes": (None, 0), "weight": 3},
    }.items():
        call = lambda o=options: jaxrnn.training.data_parallel(lambda p, x: 0.0, **o)(1.0, XS)  # noqa: E731
        yield "data_parallel", message, call
    for message, options in {
        "TypeError: names: got 3 of type int": {"names": 3},
        "ValueError: narrow_dtype: got float64": {"narrow_dtype": np.float64},
    }.items():
        yield "certify", message, lambda o=options: jaxrnn.certify(GRU, **o)
    drawing = jaxrnn.randomized(jax.random.key(0), 0.5)
    message = "ValueError: loop: got randomized(0.5), whose gradient is stochastic, expected..."
    yield "certify", message, lambda: jaxrnn.certify(GRU, loop=drawing)
    yield "certify", "TypeError: carry: got str", lambda: jaxrnn.certify(GRU, GRU_PARAMS, "x", XS)
    yield "certify_all", "TypeError: progress: got 3", lambda: jaxrnn.certify_all(progress=3)
    for message, options in {
        "ValueError: cells: got 'gruu', expected some of elman, ...stack": {"cells": ["gruu"]},
        "ValueError: loops: got 'bptt:2', expected some of scan, bptt, ": {"loops": ("bptt:2",)},
        "TypeError: cells: got 'gru' of type str, expected a sequence of names": {"cells": "gru"},
        "ValueError: cells, loops: got ['stack'] and ['scan'], which select nothing, expected": {
            "cells": ["stack"],
            "loops": ["scan"],
        },
    }.items():
        yield "certify_all", message, lambda o=options: jaxrnn.certify_all(**o)
    zero = "ValueError: hidden_size: got 0"
    yield "certify_all", zero, lambda: jaxrnn.certify_all(hidden_size=0)


def of_interop():
    yield "interop", "TypeError: source: got NoneType", lambda: interop.torch.read(None)
    yield "interop", "ValueError: 1: got float64[5,3,2]", lambda: interop.torch.read({1: XS})
    yield "interop", "TypeError: prefix: got 3", lambda: interop.torch.read({}, prefix=3)
    yield "interop", "TypeError: params: got int, exp", lambda: interop.haiku.read(3)
    yield "interop", "TypeError: name: got 3 of type", lambda: interop.haiku.read({}, name=3)
    for module in (interop.flax, interop.equinox):
        yield "interop", "TypeError: source: got <class 'int'>", lambda m=module: m.read(3)
    yield "interop", "ValueError: module: got NoneType", lambda: interop.keras.read(None)
    for cell in (None, 3, [GRU], jaxrnn.gru):
        wanted = "ValueError: cell: got ..., expected a cell such as "
        for module in (interop.torch, interop.flax, interop.haiku, interop.equinox):
            call = lambda m=module, c=cell: m.write(c, GRU_PARAMS)  # noqa: E731
            yield "interop", wanted, call
    part, net = "TypeError: params: got {}, expected a tuple of 2", jaxrnn.stacked(GRU, GRU)
    for got, params in (("NoneType", None), ("dict", GRU_PARAMS)):
        call = lambda p=params: interop.torch.write(net, p)  # noqa: E731
        yield "interop", part.format(got), call
    files = interop.safetensors
    yield "interop", "TypeError: path: got None", lambda: files.load(None)
    yield "interop", "TypeError: path: got 3", lambda: files.save(3, GRU, GRU_PARAMS)
    whole = {name: array(*x.shape, dtype=int) for name, x in GRU_PARAMS.items()}
    yield "interop", "TypeError: b: got int64", lambda: files.save("x", GRU, whole)
    bad = {**GRU_PARAMS, "b": "x"}
    yield "interop", "TypeError: params['b']: got str", lambda: files.save("x", GRU, bad)
    yield (
        "interop",
        "TypeError: path: got None",
        lambda: pytest.importorskip("onnx") and interop.onnx.load(None),
    )


ROWS = (
    *(of_cells, of_tokens, of_sequences, of_transforms, of_losses_and_training),
    *(of_diagnostics, of_interop),
)
TABLE = [row for rows in ROWS for row in rows()]
