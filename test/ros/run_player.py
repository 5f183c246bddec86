"""The player as its console script runs it."""

import sys

from gen3r_ros.player import main

sys.exit(main())
