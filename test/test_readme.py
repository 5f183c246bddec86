"""Every command that the README shows works, or at least is understood; its links and folders exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shown_commands() -> list[str]:
    """The lines of blocks marked console (those after ``$``) or sh (all), continuations joined."""
    commands = []
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        if kind not in {"console", "sh"}:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            stripped = line.strip()
            if kind == "console" and stripped.startswith("$ "):
                commands.append(stripped.removeprefix("$ "))
            elif kind == "sh" and stripped and not stripped.startswith("#"):
                commands.append(stripped)
    return commands


COMMANDS = shown_commands()


def test_the_readme_shows_commands_of_each_sort():
    assert "make setup" in COMMANDS
    assert "make test" in COMMANDS
    assert any("gen3r --version" in command for command in COMMANDS)
    assert len(COMMANDS) == len(set(COMMANDS))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_shown_command_works_or_is_understood(command):
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=\S*", words[0]):
        words.pop(0)
    program, arguments = words[0], words[1:]
    if program == "make":
        check_make(arguments)
    elif program in {"gen3r", ".venv/bin/gen3r"}:
        check_gen3r(arguments)
    elif program not in {"git", "cd"}:
        pytest.fail(f"the README shows {command!r}, a program that this test cannot check: teach it, or leave it out")


def check_make(targets):
    done = subprocess.run(
        ["make", "--dry-run", *targets], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def check_gen3r(arguments):
    if arguments[-1] in {"--help", "--version"}:
        source = "import sys; from gen3r_core.cli import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", source, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "gen3r" in done.stdout
        return
    from gen3r_core.cli import build_parser

    try:
        build_parser().parse_args(arguments)
    except SystemExit as error:
        pytest.fail(f"gen3r does not understand {shlex.join(arguments)!r} (exit {error.code})")


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_a_relative_link_leads_somewhere(target):
    assert (ROOT / target).exists()


def test_the_layout_is_that_of_the_tree():
    block = re.search(r"^```\n(gen3r_core/.*?)^```", README, re.MULTILINE | re.DOTALL)[1]
    parent = ""
    for line in block.splitlines():
        names, _, _ = line.strip().partition("  ")
        if not line.startswith(" "):
            parent = names if names.endswith("/") else ""
        for name in names.split(", "):
            path = ROOT / name if name == parent or not line.startswith(" ") else ROOT / parent / name
            assert path.exists(), f"the README's layout names {path.relative_to(ROOT)}"


def test_the_debian_packages_are_those_of_the_setup_script():
    script = (ROOT / "scripts/setup.sh").read_text(encoding="utf-8")
    packages = re.search(r"^debian_packages=\((.*)\)$", script, re.MULTILINE)[1]
    assert f"`{packages}`" in README
