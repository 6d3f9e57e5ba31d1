"""`python -m agent_core`: the command line."""

import sys

from agent_core.cli.main import main

sys.exit(main(sys.argv[1:]))
