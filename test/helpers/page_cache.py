"""Where a file's pages can be dropped, and where they cannot."""

import subprocess
from pathlib import Path


def lies_in_memory(path: Path) -> bool:
    """Whether a file system is nothing but page cache."""
    done = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True)
    return done.stdout.strip() in {"tmpfs", "ramfs"}
