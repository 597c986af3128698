"""The cells, one in each file; `CELLS` lists one constructor for each variant."""

import jax

from jaxrnn.cells.cfc import TimedInputs as TimedInputs, cfc as cfc
from jaxrnn.cells.conv_lstm import conv_lstm as conv_lstm
from jaxrnn.cells.cornn import CoRNNCarry as CoRNNCarry, cornn as cornn
from jaxrnn.cells.delta_rule import DeltaRuleCarry as DeltaRuleCarry, delta_rule as delta_rule
from jaxrnn.cells.echo_state import echo_state as echo_state
from jaxrnn.cells.elman import elman as elman
from jaxrnn.cells.gru import gru as gru
from jaxrnn.cells.indrnn import indrnn as indrnn
from jaxrnn.cells.layer_norm_gru import layer_norm_gru as layer_norm_gru
from jaxrnn.cells.layer_norm_lstm import layer_norm_lstm as layer_norm_lstm
from jaxrnn.cells.lru import lru as lru
from jaxrnn.cells.lstm import LSTMCarry as LSTMCarry, lstm as lstm
from jaxrnn.cells.mgu import mgu as mgu
from jaxrnn.cells.min_gru import min_gru as min_gru
from jaxrnn.cells.min_lstm import min_lstm as min_lstm
from jaxrnn.cells.mlstm import MLSTMCarry as MLSTMCarry, mlstm as mlstm
from jaxrnn.cells.peephole_lstm import peephole_lstm as peephole_lstm
from jaxrnn.cells.projected_lstm import projected_lstm as projected_lstm
from jaxrnn.cells.rg_lru import rg_lru as rg_lru
from jaxrnn.cells.s5 import s5 as s5
from jaxrnn.cells.selective_ssm import SSMCarry as SSMCarry, selective_ssm as selective_ssm
from jaxrnn.cells.slstm import SLSTMCarry as SLSTMCarry, slstm as slstm


def _num_heads(hidden_size: int) -> int:
    """Returns 2, or 1 if the hidden size is odd, since heads are of equal size."""
    return 2 if hidden_size % 2 == 0 else 1


# Pairs of a name and a constructor `hidden_size -> Cell`, one for each variant that has its own
# equations. The law tests, the certificate and the command line read this list.
CELLS = (
    ("elman", elman),
    ("elman_softplus", lambda hidden_size: elman(hidden_size, activation=jax.nn.softplus)),
    ("gru", gru),
    ("gru_reset_before", lambda hidden_size: gru(hidden_size, reset_after=False)),
    ("lstm", lstm),
    ("projected_lstm", lambda hidden_size: projected_lstm(hidden_size, max(1, hidden_size // 2))),
    ("peephole_lstm", peephole_lstm),
    ("layer_norm_lstm", layer_norm_lstm),
    ("layer_norm_gru", layer_norm_gru),
    ("mgu", mgu),
    ("indrnn", indrnn),
    ("indrnn_tanh", lambda hidden_size: indrnn(hidden_size, activation=jax.numpy.tanh)),
    ("min_gru", min_gru),
    ("min_lstm", min_lstm),
    ("lru", lru),
    ("rg_lru", lambda hidden_size: rg_lru(hidden_size, input_projection=True)),
    ("s5", lambda hidden_size: s5(hidden_size, 2 * hidden_size)),
    ("selective_ssm", lambda hidden_size: selective_ssm(hidden_size, 4, input_projection=True)),
    ("slstm", lambda hidden_size: slstm(hidden_size, num_heads=_num_heads(hidden_size))),
    (
        "mlstm",
        lambda hidden_size: mlstm(hidden_size, num_heads=_num_heads(hidden_size), key_size=3),
    ),
    (
        "delta_rule",
        lambda hidden_size: delta_rule(hidden_size, num_heads=_num_heads(hidden_size), key_size=3),
    ),
    ("conv_lstm", lambda hidden_size: conv_lstm(hidden_size, (3,), kernel_size=2)),
    ("cornn", lambda hidden_size: cornn(hidden_size, 0.3, 1.2, 0.7)),
    ("echo_state", lambda hidden_size: echo_state(hidden_size, leak=0.7)),
    ("cfc", lambda hidden_size: cfc(hidden_size, backbone_size=hidden_size + 1)),
)
