"""Transformations of a step, one subject a file: what they return is a step for every loop.

They act on `advance` and on `adjoint` and `gather` alike, since what changes only the way forward
is not seen by a backward pass that is written by hand.
"""

from jaxrnn.transforms.controlled import Probed as Probed, clipped as clipped
from jaxrnn.transforms.controlled import controlled as controlled, probed as probed
from jaxrnn.transforms.crossed import Crossed as Crossed, crossed as crossed
from jaxrnn.transforms.dropout import candidate_dropout as candidate_dropout
from jaxrnn.transforms.dropout import variational as variational
from jaxrnn.transforms.fed_back import Fed as Fed, fed_back as fed_back
from jaxrnn.transforms.marks import Masked as Masked, Restarted as Restarted, masked as masked
from jaxrnn.transforms.marks import Restarting as Restarting, restarted as restarted
from jaxrnn.transforms.zoneout import zoneout as zoneout
