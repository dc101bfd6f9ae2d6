"""`python -m poolrt`: the command, where its script is not on the PATH."""

import sys

from poolrt.runtime.commands.cli import main

sys.exit(main())
