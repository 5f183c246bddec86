"""What holds for every test: few threads, no network, and honest last lines."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
from pathlib import Path

import hypothesis
import pytest

# Before torch, numpy or open3d are imported: workers must not fight over the cores.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TBB_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# A shell starts what it puts into the background deaf to Ctrl-C, and so would be the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_ROOT = Path(__file__).resolve().parents[1]
_PARITY = Path(__file__).resolve().parent / "parity"

hypothesis.settings.register_profile("gen3r", deadline=None, derandomize=True, max_examples=50, database=None)
hypothesis.settings.load_profile("gen3r")

# --- no test reaches beyond this machine -----------------------------------------------------------------

_reached: list[str] = []


def _is_local(host: object) -> bool:
    if host in {None, "", "localhost", b"localhost", socket.gethostname()}:
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _audit(event: str, args: tuple[object, ...]) -> None:
    """Refuse connections and name look-ups that leave the machine, whoever asks Python for them."""
    if event in {"socket.connect", "socket.sendto"}:
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # else a path: a Unix socket
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        host = args[0]
    else:
        return
    if not _is_local(host):
        _reached.append(f"{event} to {host!r}")
        raise PermissionError(f"a test may not reach beyond this machine: {event} to {host!r}")


sys.addaudithook(_audit)


@pytest.fixture(autouse=True)
def network_attempts():
    """The attempts of this test to leave the machine; any that is left in the list fails the test."""
    _reached.clear()
    yield _reached
    if _reached:
        attempts, _reached[:] = list(_reached), []
        pytest.fail(f"the test tried to reach beyond this machine: {', '.join(attempts)}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def exact_float32():
    """On a GPU torch lets convolutions round float32 to TF32, which has the 10 bits of half precision."""
    if "torch" in sys.modules:
        sys.modules["torch"].backends.cudnn.allow_tf32 = False


# --- parity tests are marked by where they lie, and counted at the end -----------------------------------


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(_PARITY):
            item.add_marker(pytest.mark.parity)


def _gpu_only_lines() -> tuple[int, int, int]:
    """Count lines under ``# pragma: gpu-only``, all statements, and the files with such lines."""
    import coverage

    reader = coverage.Coverage(data_file=None, config_file=False)
    reader.set_option("report:exclude_lines", ["pragma: gpu-only", r"\A(?s:.*# pragma: gpu-only file.*)\Z"])
    marked = statements = files = 0
    for path in sorted((_ROOT / "gen3r_core").rglob("*.py")):
        _, ordinary, excluded, _, _ = reader.analysis2(str(path))
        marked += len(excluded)
        statements += len(ordinary) + len(excluded)
        files += bool(excluded)
    return marked, statements, files


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if "parity" in getattr(report, "keywords", ()) or report.nodeid.startswith("test/parity/")
    ]
    if skipped:
        terminalreporter.write_line(
            f"parity: {len(skipped)} tests SKIPPED: set GEN3R_GOLDEN to a folder of golden cases to run them"
        )
    if getattr(config.option, "cov_source", None):
        marked, statements, files = _gpu_only_lines()
        share = 100 * marked / max(statements, 1)
        terminalreporter.write_line(
            f"gpu-only: {marked} of {statements} lines ({share:.1f} %) in {files} files are left out of the coverage"
        )
