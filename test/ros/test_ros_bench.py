"""The command that measures the ROS layer: that it measures the same things, and what its tables say."""

import re
import struct

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from std_msgs.msg import Header

from gen3r_core.errors import Gen3RError
from gen3r_ros.bench import load
from gen3r_ros.bench.conversions import NAIVE, OURS, naive_cloud, naive_image, naive_points, naive_rgb, timings
from gen3r_ros.bench.load import Load
from gen3r_ros.bench.main import conversion_table, main
from gen3r_ros.conversions.clouds import Points, cloud_message, cloud_points
from gen3r_ros.conversions.images import image_message, rgb_array


def test_the_naive_ways_make_the_same():
    rng = np.random.default_rng(0)
    cloud = Points(
        rng.normal(size=(50, 3)).astype(np.float32),
        rng.integers(0, 256, (50, 3), dtype=np.uint8),
        rng.random(50, dtype=np.float32),
    )
    ours, naive = cloud_message(cloud, Header()), naive_cloud(cloud)
    assert bytes(naive.data) == bytes(ours.data)
    np.testing.assert_array_equal(cloud_points(naive).rgb, cloud.rgb)
    first = naive_points(ours)[7]
    assert first == struct.unpack("<fffBBBBf", bytes(ours.data)[140:160])
    assert first[:3] == tuple(cloud.xyz[7])
    picture = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    message = image_message(picture, "bgr8", Header())
    assert bytes(naive_image(picture).data) == bytes(message.data)
    np.testing.assert_array_equal(naive_rgb(message), rgb_array(message))


def test_every_conversion_is_timed_in_every_way_and_ours_is_quicker():
    found = timings(20_000, (120, 160))
    by = {(one.what, one.how): one.milliseconds for one in found}
    assert len(by) == len(found) == 12
    for what in {one.what for one in found}:
        assert 0 < by[what, OURS] < by[what, NAIVE]
    lines = conversion_table(found)
    assert len({line.count("|") for line in lines if line}) == 1
    assert "| cloud of 20,000 points to a message |" in lines[2]
    assert len([line for line in lines if line]) == 6


def test_growth_is_from_the_third_quarter_to_the_last():
    assert Load(node_mb=[500.0, 0.0, 0.0, 7.0, 100.0, 102.0, 110.0, 112.0]).grown_mb == 10
    assert Load().grown_mb == 0


def test_the_command_prints_a_table(capsys):
    assert main(["--only", "conversions", "--points", "1000"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\| 1920x1080 bgr8 image to a message \| [\d.]+ \| [\d.]+ \|", out)
    assert "load before" in out


def test_what_cannot_be_measured_is_said(monkeypatch, capsys):
    def fails(*_arguments):
        raise Gen3RError("nothing was reconstructed")

    monkeypatch.setattr(load, "measure", fails)
    assert main(["--only", "load"]) == 1
    assert capsys.readouterr().err == "gen3r_bench_ros: error: nothing was reconstructed\n"


@pytest.mark.slow
def test_the_load_is_measured(graph, monkeypatch, capsys):
    for name, value in graph.items():
        monkeypatch.setenv(name, value)
    assert main(["--only", "load", "--seconds", "6", "--checkpoint", "random:tiny"]) == 0
    table = dict(re.findall(r"^\| (.*?) \| (.*?) \|$", capsys.readouterr().out, re.MULTILINE))
    arrived, due = map(int, re.match(r"(\d+) of (\d+)", table["images that arrived, of those due"]).groups())
    assert due >= 180
    assert 0.5 * due < arrived <= due + 10
    assert int(table["keyframes"]) > 3
    assert int(table["reconstructions"]) >= 1
    assert 0 < float(table["the same, but for waiting for a core"].split()[0]) < 10
    assert table["seconds, cores, model"].endswith("random-tiny")
