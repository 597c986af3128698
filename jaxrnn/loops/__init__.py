"""The loops, one gradient algorithm a file. `LOOPS` names them all for the laws and certificate."""

from jaxrnn.loops.bptt import bptt as bptt
from jaxrnn.loops.checkpointed import checkpointed as checkpointed
from jaxrnn.loops.randomized import randomized as randomized
from jaxrnn.loops.scan import scan as scan
from jaxrnn.loops.truncated import truncated as truncated

# Loops by name; of a factory, members that differ in how they go through a sequence.
LOOPS = (
    ("scan", scan),
    ("bptt", bptt),
    ("truncated:4", truncated(4)),
    ("truncated:5:scan", truncated(5, loop=scan)),
    ("truncated:2:5", truncated(2, 5)),
    ("checkpointed", checkpointed()),
    ("checkpointed:3", checkpointed(levels=3)),
)
