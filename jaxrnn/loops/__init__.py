"""The loops, one gradient algorithm a file. `LOOPS` names them all for the laws and certificate."""

from jaxrnn.loops.bptt import bptt as bptt
from jaxrnn.loops.checkpointed import checkpointed as checkpointed
from jaxrnn.loops.scan import scan as scan
from jaxrnn.loops.truncated import truncated as truncated

# Loops by name; of a factory, members whose segments do and do not divide the sequence.
LOOPS = (
    ("scan", scan),
    ("bptt", bptt),
    ("truncated:4", truncated(4)),
    ("truncated:5:scan", truncated(5, loop=scan)),
)
