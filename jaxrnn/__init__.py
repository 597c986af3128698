"""jaxrnn: recurrent networks in JAX whose gradients one can read, trust, measure and swap."""

# Cells
from jaxrnn.cells import CELLS as CELLS
from jaxrnn.cells import LSTMCarry as LSTMCarry
from jaxrnn.cells import elman as elman
from jaxrnn.cells import gru as gru
from jaxrnn.cells import indrnn as indrnn
from jaxrnn.cells import layer_norm_gru as layer_norm_gru
from jaxrnn.cells import layer_norm_lstm as layer_norm_lstm
from jaxrnn.cells import lru as lru
from jaxrnn.cells import lstm as lstm
from jaxrnn.cells import mgu as mgu
from jaxrnn.cells import min_gru as min_gru
from jaxrnn.cells import min_lstm as min_lstm
from jaxrnn.cells import peephole_lstm as peephole_lstm
from jaxrnn.cells import projected_lstm as projected_lstm

# What surrounds them
from jaxrnn.layers import dropout as dropout
from jaxrnn.layers import embedding as embedding
from jaxrnn.layers import readout as readout
from jaxrnn.networks import BothWays as BothWays
from jaxrnn.networks import bidirectional as bidirectional
from jaxrnn.networks import residual as residual
from jaxrnn.networks import stacked as stacked

# Loops: what a gradient means and costs
from jaxrnn.loops import LOOPS as LOOPS
from jaxrnn.loops import bptt as bptt
from jaxrnn.loops import checkpointed as checkpointed
from jaxrnn.loops import randomized as randomized
from jaxrnn.loops import scan as scan
from jaxrnn.loops import truncated as truncated

# Sequences
from jaxrnn.losses import Scored as Scored
from jaxrnn.losses import mean_over_time as mean_over_time
from jaxrnn.losses import scored as scored
from jaxrnn.sequence import History as History
from jaxrnn.sequence import history as history
from jaxrnn.sequence import mask_of_lengths as mask_of_lengths
from jaxrnn.sequence import unroll as unroll
from jaxrnn.tree import shifted as shifted
from jaxrnn.tree import time_first as time_first

# Transformations of a step, for every loop
from jaxrnn.transforms import Fed as Fed
from jaxrnn.transforms import Masked as Masked
from jaxrnn.transforms import Restarted as Restarted
from jaxrnn.transforms import Restarting as Restarting
from jaxrnn.transforms import Crossed as Crossed
from jaxrnn.transforms import Probed as Probed
from jaxrnn.transforms import candidate_dropout as candidate_dropout
from jaxrnn.transforms import clipped as clipped
from jaxrnn.transforms import controlled as controlled
from jaxrnn.transforms import crossed as crossed
from jaxrnn.transforms import fed_back as fed_back
from jaxrnn.transforms import masked as masked
from jaxrnn.transforms import probed as probed
from jaxrnn.transforms import restarted as restarted
from jaxrnn.transforms import variational as variational
from jaxrnn.transforms import zoneout as zoneout

# Trust
from jaxrnn.certify import Certificate as Certificate
from jaxrnn.certify import certify as certify
from jaxrnn.certify_all import certify_all as certify_all

# See
from jaxrnn.diagnostics import pictures as pictures
from jaxrnn.diagnostics.flow import Flow as Flow
from jaxrnn.diagnostics.flow import contributions as contributions
from jaxrnn.diagnostics.flow import flow as flow
from jaxrnn.diagnostics.flow import saturation as saturation
from jaxrnn.diagnostics.nonfinite import locate_nonfinite as locate_nonfinite
from jaxrnn.diagnostics.reach import reach as reach
from jaxrnn.diagnostics.spectrum import spectrum as spectrum
from jaxrnn.diagnostics.verdict import verdict as verdict

# Training
from jaxrnn.train import Trainer as Trainer
from jaxrnn.train import TrainState as TrainState
from jaxrnn.train import trainer as trainer
from jaxrnn.train import windowed as windowed

# Devices and memory
from jaxrnn.sharding import data_parallel as data_parallel
from jaxrnn.memory import MemoryPlan as MemoryPlan
from jaxrnn.memory import MemoryRow as MemoryRow
from jaxrnn.memory import memory_plan as memory_plan

# Nouns
from jaxrnn.types import Cell as Cell
from jaxrnn.types import Layer as Layer
from jaxrnn.types import Loop as Loop
from jaxrnn.types import Network as Network
from jaxrnn.types import Noised as Noised
from jaxrnn.types import Seen as Seen
from jaxrnn.types import Step as Step

__version__ = "0.1.0"
