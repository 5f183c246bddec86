"""A map on disk, written once, and its content as the viewer reads it."""

import pytest
from map_samples import room_map

from gen3r_core.maps.folder import write_map
from gen3r_core.viewer.opening import open_content


@pytest.fixture(scope="session")
def room_folder(tmp_path_factory):
    """Nobody may change it."""
    folder = tmp_path_factory.mktemp("maps") / "room"
    write_map(room_map(), folder, mcap=False, report=False)
    return folder


@pytest.fixture(scope="session")
def room(room_folder):
    return open_content(room_folder)
