"""``python -m adamesh`` is ``adamesh``."""

import sys

from adamesh.cli.main import main

sys.exit(main())
