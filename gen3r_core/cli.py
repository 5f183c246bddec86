"""The command ``gen3r``: its parser, and errors turned into messages and exit codes."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from gen3r_core import __version__
from gen3r_core.commands import (
    bench,
    calibrate,
    convert,
    embed_prompts,
    fetch,
    infer,
    info,
    plan,
    reconstruct,
    recordings,
    train,
    view,
    worlds,
)
from gen3r_core.commands import eval as evaluate
from gen3r_core.errors import CancelledError, Gen3RError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

_COMMANDS = (
    infer,
    info,
    convert,
    fetch,
    embed_prompts,
    plan,
    calibrate,
    bench,
    worlds,
    train,
    evaluate,
    recordings,
    reconstruct,
    view,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all sub-commands; building it imports neither torch nor anything slow."""
    parser = argparse.ArgumentParser(
        prog="gen3r",
        description="Generate and reconstruct 3D scenes from images with Gen3R (arXiv 2601.04090).",
    )
    parser.add_argument("--version", action="version", version=f"gen3r {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: arguments after the program's name; None takes the process's.

    Returns:
        0 on success, 1 on an error that has been explained, 130 when interrupted. Wrong
        arguments exit with 2 (argparse).
    """
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.DEBUG if args.debug else logging.WARNING, format="gen3r: %(message)s")
    try:
        code: int = args.run(args)
    except CancelledError as error:
        print(f"gen3r: {error}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Gen3RError as error:
        if args.debug:
            raise
        print(f"gen3r: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("gen3r: interrupted; no unfinished result stands under its final name", file=sys.stderr)
        return EXIT_INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
