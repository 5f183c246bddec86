"""Every command that the README shows is understood, and runs (slow); its links and folders exist.

``make demo`` runs in test/ros/test_ros_demo.py, ``make test`` and ``make test-all`` are what runs this, and
``ros2 launch`` has test/ros/test_ros_launch.py. ``gen3r fetch`` needs the network and is only parsed here.
"""

import re
import shlex
import shutil
import signal
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
    assert COMMANDS[:2] == ["make demo", "make test"]
    assert any("gen3r infer" in command for command in COMMANDS)
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


# --- running them ----------------------------------------------------------------------------------------


def run_gen3r(folder, arguments):
    source = "import sys; from gen3r_core.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def check_view(folder, arguments):
    """It serves until Ctrl-C, and then ends with code 0."""
    source = "import sys; from gen3r_core.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", source, *arguments, "--port", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    told = ""
    for line in process.stdout:
        told += line
        if "http://" in line:
            break
    process.send_signal(signal.SIGINT)
    told += process.stdout.read()
    assert process.wait(60) == 0, told


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_gen3r_runs_in_the_order_shown(tmp_path):
    """With pictures of a procedural room as the user's files, and gen3r-small in place of the published weights."""
    from PIL import Image

    from gen3r_core.checkpoint.packaged import packaged_folder
    from gen3r_core.io.video import write_video
    from gen3r_core.worlds.clips import make_clip

    clip = make_clip("test", 0, 5, samples=1)
    pictures = (clip.colors * 255).round().byte().numpy()
    Image.fromarray(pictures[0]).save(tmp_path / "first.png")
    Image.fromarray(pictures[-1]).save(tmp_path / "last.png")
    write_video(tmp_path / "garden.mp4", pictures, fps=10)
    shutil.copytree(packaged_folder(), tmp_path / "checkpoints" / "gen3r")
    ran = []
    for command in COMMANDS:
        words = shlex.split(command, comments=True)
        if words[0] != ".venv/bin/gen3r" or words[1] == "fetch":
            continue
        ran.append(words[1])
        if words[1] == "view":
            check_view(tmp_path, words[1:])
            continue
        done = run_gen3r(tmp_path, words[1:])
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
        if words[1] == "infer":
            out = tmp_path / words[words.index("--output_dir") + 1]
            assert {"rgb.mp4", "cloud.ply", "cameras.json", "run.json"} <= {path.name for path in out.iterdir()}
            if not (tmp_path / "cameras.json").exists():
                shutil.copy(out / "cameras.json", tmp_path)
    assert {"infer", "info", "convert", "embed-prompts", "bench", "worlds", "recordings", "reconstruct", "view"} <= set(
        ran
    )


@pytest.mark.slow
def test_the_python_example_runs():
    """On a CPU, with gen3r-small, at its size."""
    from gen3r_core.checkpoint.packaged import packaged_folder

    block = re.search(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1]
    for shown, here in (
        ("checkpoints/gen3r", str(packaged_folder())),
        ("cuda", "cpu"),
        ("bfloat16", "float32"),
        ("560, 560", "224, 224"),
        ("steps=50", "steps=1, num_frames=17, size=(224, 224)"),
    ):
        assert shown in block
        block = block.replace(shown, here)
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    scene = names["scene"]
    assert scene.depth.shape[-2:] == (224, 224)
    assert scene.T_world_cam.shape == (17, 4, 4)
