"""jaxrnn: recurrent networks in JAX whose gradients one can read, trust, measure and swap."""

# Cells
from jaxrnn.cells import CELLS as CELLS
from jaxrnn.cells import LSTMCarry as LSTMCarry
from jaxrnn.cells import elman as elman
from jaxrnn.cells import gru as gru
from jaxrnn.cells import indrnn as indrnn
from jaxrnn.cells import lru as lru
from jaxrnn.cells import lstm as lstm
from jaxrnn.cells import mgu as mgu
from jaxrnn.cells import min_gru as min_gru
from jaxrnn.cells import min_lstm as min_lstm

# What surrounds them
from jaxrnn.layers import embedding as embedding
from jaxrnn.layers import readout as readout

# Loops: what a gradient means and costs
from jaxrnn.loops import LOOPS as LOOPS
from jaxrnn.loops import bptt as bptt
from jaxrnn.loops import scan as scan
from jaxrnn.loops import truncated as truncated

# Sequences
from jaxrnn.losses import mean_over_time as mean_over_time
from jaxrnn.sequence import unroll as unroll
from jaxrnn.tree import time_first as time_first

# Trust
from jaxrnn.certify import Certificate as Certificate
from jaxrnn.certify import certify as certify
from jaxrnn.certify import certify_all as certify_all

# Training
from jaxrnn.train import Trainer as Trainer
from jaxrnn.train import TrainState as TrainState
from jaxrnn.train import trainer as trainer

# Nouns
from jaxrnn.types import Cell as Cell
from jaxrnn.types import Layer as Layer
from jaxrnn.types import Loop as Loop
from jaxrnn.types import Step as Step

__version__ = "0.1.0"
