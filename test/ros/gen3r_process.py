"""The node as users start it."""

import sys

from gen3r_ros.node import main

if __name__ == "__main__":
    sys.exit(main())
