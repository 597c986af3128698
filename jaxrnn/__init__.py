"""jaxrnn: recurrent networks in JAX whose gradients one can read, trust, measure and swap."""

# Cells
from jaxrnn.cells import CELLS as CELLS, LSTMCarry as LSTMCarry, elman as elman, gru as gru
from jaxrnn.cells import indrnn as indrnn, layer_norm_gru as layer_norm_gru
from jaxrnn.cells import layer_norm_lstm as layer_norm_lstm, lru as lru, lstm as lstm, mgu as mgu
from jaxrnn.cells import min_gru as min_gru, min_lstm as min_lstm, peephole_lstm as peephole_lstm
from jaxrnn.cells import projected_lstm as projected_lstm

# What surrounds them
from jaxrnn.layers import dropout as dropout, embedding as embedding, readout as readout
from jaxrnn.networks import BothWays as BothWays, bidirectional as bidirectional
from jaxrnn.networks import residual as residual, stacked as stacked

# Loops: what a gradient means and costs
from jaxrnn.loops import LOOPS as LOOPS, bptt as bptt, checkpointed as checkpointed
from jaxrnn.loops import randomized as randomized, scan as scan, truncated as truncated

# Sequences
from jaxrnn.losses import Scored as Scored, mean_over_time as mean_over_time, scored as scored
from jaxrnn.sequence import History as History, history as history
from jaxrnn.sequence import mask_of_lengths as mask_of_lengths, unroll as unroll
from jaxrnn.tree import shifted as shifted, time_first as time_first

# Transformations of a step, for every loop
from jaxrnn.transforms import Fed as Fed, Masked as Masked, Restarted as Restarted
from jaxrnn.transforms import Restarting as Restarting, Crossed as Crossed, Probed as Probed
from jaxrnn.transforms import candidate_dropout as candidate_dropout, clipped as clipped
from jaxrnn.transforms import controlled as controlled, crossed as crossed, fed_back as fed_back
from jaxrnn.transforms import masked as masked, probed as probed, restarted as restarted
from jaxrnn.transforms import variational as variational, zoneout as zoneout

# Trust
from jaxrnn.certify import Certificate as Certificate, certify as certify
from jaxrnn.certify_all import certify_all as certify_all

# See
from jaxrnn.diagnostics import pictures as pictures
from jaxrnn.diagnostics.flow import Flow as Flow, contributions as contributions, flow as flow
from jaxrnn.diagnostics.flow import saturation as saturation
from jaxrnn.diagnostics.nonfinite import locate_nonfinite as locate_nonfinite
from jaxrnn.diagnostics.spectrum import reach as reach, spectrum as spectrum
from jaxrnn.diagnostics.truncation import Adapted as Adapted, TruncationBias as TruncationBias
from jaxrnn.diagnostics.truncation import adaptive as adaptive, truncation_bias as truncation_bias
from jaxrnn.diagnostics.verdict import verdict as verdict

# Training
from jaxrnn.train import Trainer as Trainer, TrainState as TrainState, trainer as trainer
from jaxrnn.train import windowed as windowed

# Other libraries
from jaxrnn import interop as interop

# Devices and memory
from jaxrnn.sharding import data_parallel as data_parallel
from jaxrnn.memory import MemoryPlan as MemoryPlan, MemoryRow as MemoryRow
from jaxrnn.memory import memory_plan as memory_plan

# Nouns
from jaxrnn.types import Cell as Cell, Layer as Layer, Loop as Loop, Network as Network
from jaxrnn.types import Noised as Noised, Seen as Seen, Step as Step

__version__ = "0.1.0"
