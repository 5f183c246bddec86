"""The command itself: its parser, its exit codes, and how fast it starts."""

import subprocess
import sys

import pytest
from command_line import gen3r, gen3r_process

from gen3r_core import __version__, cli
from gen3r_core.commands import info
from gen3r_core.errors import CancelledError, InputError

COMMANDS = ("infer", "info", "convert", "fetch", "embed-prompts", "bench")


def test_help_names_every_command():
    done = gen3r("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert command in done.out
        assert gen3r(command, "--help").code == 0


def test_the_version():
    done = gen3r_process("--version")
    assert (done.code, done.out) == (0, f"gen3r {__version__}\n")


def test_the_parser_needs_nothing_that_is_slow():
    code = (
        "import sys; from gen3r_core.cli import build_parser; build_parser(); "
        "print([m for m in ('torch', 'diffusers', 'transformers', 'open3d', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [(), ("draw",), ("infer",), ("fetch",), ("bench", "--steps", "many")])
def test_wrong_arguments(arguments):
    done = gen3r(*arguments)
    assert done.code == 2
    assert "usage: gen3r" in done.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("this is wrong"), 1, "gen3r: error: this is wrong\n"),
        (CancelledError("cancelled during denoise"), 130, "gen3r: cancelled during denoise\n"),
        (KeyboardInterrupt(), 130, "gen3r: interrupted; no unfinished result stands under its final name\n"),
    ],
)
def test_errors_become_messages_and_exit_codes(monkeypatch, error, code, message):
    def fail(_args):
        raise error

    monkeypatch.setattr(info, "run", fail)
    done = gen3r("info", "folder")
    assert (done.code, done.out, done.err) == (code, "", message)


def test_other_errors_are_not_hidden(monkeypatch):
    def fail(_args):
        raise ZeroDivisionError

    monkeypatch.setattr(info, "run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info", "folder"])


def test_debug_shows_where_an_error_comes_from():
    with pytest.raises(Exception, match="nowhere does not exist"):
        cli.main(["--debug", "info", "nowhere"])


def test_a_cancelled_command_has_no_traceback_in_debug(monkeypatch):
    def fail(_args):
        raise CancelledError("cancelled")

    monkeypatch.setattr(info, "run", fail)
    assert gen3r("--debug", "info", "folder").code == 130
