"""`python -m jaxrnn` is the command `jaxrnn`."""

import sys

from jaxrnn.app.main import main

sys.exit(main())
