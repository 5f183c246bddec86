"""Means, medians, tables and notes by hand."""

import json
import math

import pytest

from gen3r_core.evaluation.measure import FIGURES
from gen3r_core.evaluation.report import build_report, format_report
from gen3r_core.evaluation.run import SceneFigures


def result(name, seconds, figures, prompt=None, **baselines):
    timed = {"vggt": seconds / 2} if "vggt" in baselines else {}
    return SceneFigures(name, f"caption of {name}", prompt, seconds, figures, baselines, timed)


TWO = [
    result("a", 1.0, {"psnr_middle": 20.0, "absrel": 0.1, "auc30": 0.5, "ate": None}, "p",
           nearest={"psnr_middle": 18.0}, crossfade={"psnr_middle": 19.0}, vggt={"absrel": 0.05, "auc30": 0.9}),
    result("b", 3.0, {"psnr_middle": 24.0, "absrel": 0.3, "auc30": 0.7, "ate": 0.02}, "p",
           nearest={"psnr_middle": 19.0}, crossfade={"psnr_middle": 21.0}, vggt={"absrel": 0.15, "auc30": 0.7}),
    result("c", 2.0, {"psnr_middle": 22.0, "absrel": 0.2, "auc30": 0.6, "ate": 0.04}, "p",
           nearest={"psnr_middle": 20.0}, crossfade={"psnr_middle": 23.0}, vggt={"absrel": 0.1, "auc30": 0.8}),
]  # fmt: skip


def test_means_medians_and_baselines():
    report = build_report("2view", TWO, {"frames": 5, "size": [112, 224], "prompt": "right"})
    assert json.loads(json.dumps(report)) == report
    assert (report["task"], report["scenes"], report["frames"]) == ("2view", 3, 5)
    assert report["psnr_middle"] == pytest.approx(22)
    assert report["absrel"] == pytest.approx(0.2)
    assert report["ate"] == pytest.approx(0.03)  # of the two scenes that have it
    assert report["chamfer"] is None
    assert report["seconds_per_scene"] == 2
    assert report["camera_control"] == report["auc30"] == pytest.approx(0.6)
    assert report["baselines"]["crossfade"]["psnr_middle"] == pytest.approx(21)
    assert report["baselines"]["crossfade"]["absrel"] is None
    assert report["baselines"]["crossfade"]["seconds_per_scene"] is None
    assert report["baselines"]["vggt"]["seconds_per_scene"] == 1
    for figures in (report, *report["baselines"].values()):
        assert set(FIGURES) <= set(figures)
    assert report["per_scene"][1] == {
        "scene": "b", "caption": "caption of b", "prompt": "p", "seconds": 3.0, **TWO[1].figures,
        "baselines": TWO[1].baselines,
    }  # fmt: skip
    assert report["notes"] == []


def test_the_table_has_baselines_beside_the_model():
    lines = format_report(build_report("2view", TWO, {"size": [112, 224], "steps": 4, "seeds": None})).splitlines()
    assert lines[0] == "3 scenes; size 112x224, steps 4."
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells[0] == ["", "2view", "nearest frame", "cross-fade", "VGGT, all frames"]
    assert ["PSNR, middle frames dB", "22.00", "19.00", "21.00", "-"] in cells
    assert ["depth AbsRel", "0.2000", "-", "-", "0.1000"] in cells
    assert ["time a scene s", "2.000", "-", "-", "1.000"] in cells
    assert not any("chamfer" in line or "frames not given" in line for line in lines)


def test_the_adapter_is_compared_with_vggt_before_it():
    scenes = [result(one.name, one.seconds, one.figures, vggt=one.baselines["vggt"]) for one in TWO]
    report = build_report("adapter", scenes, {})
    assert report["absrel_ratio"] == pytest.approx(2)  # of the means, 0.2 and 0.1
    assert (report["absrel_before"], report["auc30_after"]) == (pytest.approx(0.1), pytest.approx(0.6))
    assert report["camera_control"] is None
    assert "| depth AbsRel, after over before | 2.000" in format_report(report)
    unknown = build_report("adapter", [result("a", 1.0, {}, vggt={})], {})
    assert (unknown["absrel_ratio"], unknown["absrel"]) == (None, None)


def test_what_is_missing_is_said():
    scenes = [TWO[0], result("bare", 1.0, {"psnr_middle": 20.0}, "")]
    report = build_report("2view", scenes, {"prompt": "right"})
    assert report["notes"] == [
        "1 of 2 scenes have no depth to compare with: depth and point figures are missing there",
        "1 of 2 scenes have no cameras to compare with: camera and point figures are missing there",
        "1 of 2 scenes have no caption and were prompted with nothing",
    ]
    assert format_report(report).endswith("prompted with nothing")
    assert build_report("2view", scenes, {"prompt": "none"})["notes"][-1].startswith("1 of 2 scenes have no cameras")
    assert build_report("vae", scenes[1:], {})["notes"] == []


def test_a_broken_prediction_does_not_pass_as_missing():
    broken = result("broken", 1.0, {"psnr_middle": math.nan, "absrel": 0.1, "auc30": 0.5})
    report = build_report("1view", [TWO[0], broken], {})
    assert report["psnr_middle"] is None
    assert report["absrel"] == pytest.approx(0.1)
    assert report["per_scene"][1]["psnr_middle"] is None
    assert report["notes"] == ["predictions are not finite in 1 of 2 scenes, broken the first: means are null"]
    json.dumps(report, allow_nan=False)


def test_the_video_vaes_classes_of_frames():
    figures = {"psnr_middle": 30.0, "psnr_unknown": 31.0, "psnr_first": 33.0, "psnr_last": 29.0}
    report = build_report("vae", [result("a", 1.0, figures)], {})
    assert report["psnr_first"] == 33
    rows = [line.split("|")[1:3] for line in format_report(report).splitlines() if line.startswith("| PSNR")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["PSNR, middle frames dB", "30.00"],
        ["PSNR, all frames dB", "31.00"],
        ["PSNR, frame 0 dB", "33.00"],
        ["PSNR, last four frames dB", "29.00"],
    ]
