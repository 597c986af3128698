"""`python -m jaxrnn` is the command `jaxrnn`."""

import sys

from jaxrnn.cli.main import main

sys.exit(main())
