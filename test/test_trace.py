"""Kernel times by stage."""

import torch

from gen3r_core.progress import JobMonitor
from gen3r_core.trace import KernelTime, format_kernels, kernel_times


def test_kernels_are_told_apart_by_stage():
    monitor = JobMonitor()
    a = torch.rand(64, 64)

    def job():
        with monitor.stage("products"):
            for _ in range(3):
                a @ a
        with monitor.stage("sines"):
            a.sin()
        a.exp()

    found = kernel_times(job, torch.device("cpu"), count=1)
    assert [(one.stage, one.name, one.calls) for one in found] == [
        ("products", "aten::mm", 3),
        ("sines", "aten::sin", 1),
        ("", "aten::exp", 1),
    ]
    assert all(one.seconds > 0 and 0 < one.share <= 1 for one in found)


def test_the_table_cuts_long_names():
    table = format_kernels(
        [KernelTime("denoise", "a|" * 60, 2, 0.0125, 0.5), KernelTime("", "b", 1, 0.001, 1.0)], width=10
    )
    assert table.splitlines()[2:] == [
        "| denoise | a/a/a/a/a… | 2 | 12.50 | 50.0 % |",
        "| - | b | 1 | 1.00 | 100.0 % |",
    ]
