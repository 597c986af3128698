"""The loops, one gradient algorithm in each file; `LOOPS` lists them."""

from jaxrnn.loops.bptt import bptt as bptt
from jaxrnn.loops.checkpointed import checkpointed as checkpointed
from jaxrnn.loops.cudnn import cudnn as cudnn
from jaxrnn.loops.fused import fused as fused
from jaxrnn.loops.parallel import parallel as parallel
from jaxrnn.loops.randomized import randomized as randomized
from jaxrnn.loops.scan import scan as scan
from jaxrnn.loops.truncated import truncated as truncated

# Pairs of a name and a loop. A factory has one entry for each way to divide a sequence. The law
# tests, the certificate and the command line read this list. `cudnn()` and `fused()` are not among
# them, since they need an NVIDIA GPU and a TPU.
LOOPS = (
    ("scan", scan),
    ("bptt", bptt),
    ("truncated:4", truncated(4)),
    ("truncated:5:scan", truncated(5, loop=scan)),
    ("truncated:2:5", truncated(2, 5)),
    ("checkpointed", checkpointed()),
    ("checkpointed:3", checkpointed(levels=3)),
    ("parallel:dense", parallel(jacobian="dense")),
)
