"""The simulator as its console script runs it."""

import sys

from gen3r_ros.simulator import main

sys.exit(main())
