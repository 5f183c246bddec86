"""The numbers are those of the ROS interface, and a node that asks for inference needs no torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

from gen3r_core.serving.codes import ErrorCode

ROOT = Path(__file__).resolve().parents[2]


def test_codes_are_those_of_the_message():
    text = (ROOT / "msg" / "ErrorCode.msg").read_text(encoding="utf-8")
    constants = {name: int(value) for name, value in re.findall(r"^uint16 (\w+)=(\d+)", text, re.MULTILINE)}
    assert len(constants) > 10
    assert {code.name: code.value for code in ErrorCode} == constants


def test_the_client_imports_nothing_heavy():
    source = """
import json, sys
import gen3r_core.serving.client
heavy = {"torch", "open3d", "diffusers", "transformers", "scipy", "av", "huggingface_hub", "PIL", "tqdm"}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == []
