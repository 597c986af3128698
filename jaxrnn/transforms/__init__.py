"""Transformations of a step, one a file: what they return is a step for every loop.

They act on `advance` and on `adjoint` and `gather` alike, since what changes only the way forward
is not seen by a backward pass that is written by hand.
"""

from jaxrnn.transforms.candidate_dropout import candidate_dropout as candidate_dropout
from jaxrnn.transforms.controlled import Probed as Probed
from jaxrnn.transforms.controlled import clipped as clipped
from jaxrnn.transforms.controlled import controlled as controlled
from jaxrnn.transforms.controlled import probed as probed
from jaxrnn.transforms.crossed import Crossed as Crossed
from jaxrnn.transforms.crossed import crossed as crossed
from jaxrnn.transforms.fed_back import Fed as Fed
from jaxrnn.transforms.fed_back import fed_back as fed_back
from jaxrnn.transforms.masked import Masked as Masked
from jaxrnn.transforms.masked import masked as masked
from jaxrnn.transforms.restarted import Restarted as Restarted
from jaxrnn.transforms.restarted import Restarting as Restarting
from jaxrnn.transforms.restarted import restarted as restarted
from jaxrnn.transforms.variational import variational as variational
from jaxrnn.transforms.zoneout import zoneout as zoneout
