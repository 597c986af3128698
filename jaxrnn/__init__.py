"""jaxrnn: recurrent networks in JAX whose gradients you can read, trust, measure and swap."""

# Nouns
from jaxrnn.types import Cell as Cell, Layer as Layer, Loop as Loop, Network as Network
from jaxrnn.types import Part as Part, Residuals as Residuals, Step as Step, WithNoise as WithNoise

# Cells
from jaxrnn.cells import CELLS as CELLS, LSTMCarry as LSTMCarry, SSMCarry as SSMCarry
from jaxrnn.cells import elman as elman, gru as gru
from jaxrnn.cells import indrnn as indrnn, layer_norm_gru as layer_norm_gru
from jaxrnn.cells import layer_norm_lstm as layer_norm_lstm, lru as lru, lstm as lstm, mgu as mgu
from jaxrnn.cells import min_gru as min_gru, min_lstm as min_lstm, peephole_lstm as peephole_lstm
from jaxrnn.cells import projected_lstm as projected_lstm, rg_lru as rg_lru, s5 as s5
from jaxrnn.cells import selective_ssm as selective_ssm
from jaxrnn.cells import SLSTMCarry as SLSTMCarry, slstm as slstm
from jaxrnn.cells import MLSTMCarry as MLSTMCarry, mlstm as mlstm
from jaxrnn.cells import DeltaRuleCarry as DeltaRuleCarry, delta_rule as delta_rule
from jaxrnn.cells import CoRNNCarry as CoRNNCarry, cornn as cornn, echo_state as echo_state
from jaxrnn.cells import TimedInputs as TimedInputs, cfc as cfc, conv_lstm as conv_lstm

# Loops
from jaxrnn.loops import LOOPS as LOOPS, bptt as bptt, checkpointed as checkpointed
from jaxrnn.loops import cudnn as cudnn, fused as fused
from jaxrnn.loops import parallel as parallel, randomized as randomized, scan as scan
from jaxrnn.loops import truncated as truncated

# Layers and networks
from jaxrnn.layers import dropout as dropout, embedding as embedding, linear as linear
from jaxrnn.networks import Directions as Directions, bidirectional as bidirectional
from jaxrnn.networks import residual as residual, stacked as stacked

# Sequences and losses
from jaxrnn.losses import masked_mean as masked_mean
from jaxrnn.runner import History as History
from jaxrnn.sequence import history as history, lengths_to_mask as lengths_to_mask, unroll as unroll
from jaxrnn.tree import shift_right as shift_right, to_time_major as to_time_major

# Certificates
from jaxrnn.certificate import Certificate as Certificate, Comparison as Comparison
from jaxrnn.certify import certify as certify
from jaxrnn.certify_all import certify_all as certify_all

# Namespaces
from jaxrnn import diagnostics as diagnostics, interop as interop
from jaxrnn import online as online, training as training, transforms as transforms

from jaxrnn.version import __version__ as __version__
