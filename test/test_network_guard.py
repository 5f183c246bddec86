"""The guard in conftest.py that keeps tests on this machine."""

import contextlib
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


@pytest.fixture
def run_pytest(tmp_path):
    """Run pytest on one file with this folder's conftest.py and return what it prints."""

    def run(source: str) -> str:
        shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    parity\n")
        (tmp_path / "test_inner.py").write_text(textwrap.dedent(source))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:dash", "-ra", "."],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr

    return run


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_connection_to_another_host_is_refused_and_noted(kind, network_attempts):
    with socket.socket(socket.AF_INET, kind) as client, pytest.raises(PermissionError, match="beyond this machine"):
        client.connect(("192.0.2.1", 9))
    assert network_attempts == ["socket.connect to '192.0.2.1'"]
    network_attempts.clear()


def test_a_name_look_up_is_refused_even_when_the_caller_swallows_the_error(network_attempts):
    with contextlib.suppress(OSError):
        socket.getaddrinfo("example.invalid", 80)
    assert network_attempts == ["socket.getaddrinfo to 'example.invalid'"]
    network_attempts.clear()


def test_loopback_is_free():
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.create_connection(server.getsockname(), timeout=5))
        connection, address = server.accept()
        connection.close()
        assert client.getsockname() == address


def test_an_attempt_fails_the_test_that_makes_it(run_pytest):
    outcome = run_pytest(
        """
        import contextlib, socket

        def test_bad():
            with contextlib.suppress(OSError), socket.socket() as client:
                client.connect(("192.0.2.1", 9))

        def test_good():
            pass
        """
    )
    assert "2 passed, 1 error" in outcome
    assert "test_bad" in outcome.rpartition("short test summary")[2]
    assert "the test tried to reach beyond this machine: socket.connect to '192.0.2.1'" in outcome
