"""A stage that trains in a millisecond a step, and a command that trains it: for tests of the trainer."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from training_clips import MovingSource

from gen3r_core.errors import Gen3RError
from gen3r_core.training.loop import Trainer
from gen3r_core.training.plan import Plan
from gen3r_core.training.processes import make_accelerator


class TinyNetwork(nn.Module):
    """Two layers, one that seldom gets a gradient, and a frozen parameter."""

    def __init__(self, noise, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Dropout(noise), nn.Linear(width, 3))
        self.seldom = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, x):
        return self.layers(x)


class TinyStage:
    """Learns the mean colour of a clip from its first pixel, with noise and dropout."""

    name = "tiny"

    def __init__(self, *, noise=0.1, nan_at=(), seconds=0.0, width=16):
        torch.manual_seed(0)
        self.module = TinyNetwork(noise, width)
        self.noise, self.nan_at, self.seconds = noise, set(nan_at), seconds
        self.finished, self.configured, self.shapes = [], [], []

    def loss(self, batch, step, generator):
        time.sleep(self.seconds)
        self.shapes.append((len(batch), batch.colors.shape[1], batch.size))
        colors = batch.colors[:, 0, :, 0, 0]
        colors = colors + self.noise * torch.randn(colors.shape, generator=generator)
        loss = (self.module(colors) - batch.colors.mean(dim=(1, 3, 4))).square().mean()
        if step % 5 == 4:
            loss = loss + 0.01 * self.module.seldom.weight.square().mean()
        if step in self.nan_at:
            loss = loss * torch.nan
        return loss, {"error": loss.detach().sqrt()}

    def validate(self, batch):
        assert not self.module.training
        assert not torch.is_grad_enabled()
        difference = self.module(batch.colors[:, 0, :, 0, 0]) - batch.colors.mean(dim=(1, 3, 4))
        return {"error": float(difference.abs().mean())}

    def configure(self, values):
        self.configured.append(dict(values))

    def finish(self, batches):
        self.finished = [(len(batch), batch.colors.shape[1]) for batch in batches]

    def export(self, folder, state=None):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(state or self.module.state_dict()), folder / "model.safetensors")


def plan(**values):
    phase = {"num_frames": 5, "size": [8, 8], "batch_size": 4, "learning_rate": 0.02, "warmup_steps": 2}
    defaults = {"steps": 20, "phases": [phase], "log_every": 5, "validate_every": 10, "validation_batches": 2,
                "validation_batch_size": 2, "checkpoint_every": 5, "finish_batches": 3, "tensorboard": False,
                "ema_decay": 0.9}  # fmt: skip
    return Plan(**{**defaults, **values})


def trainer(folder, stage, a_plan, source=None, **options):
    return Trainer(
        stage,
        source or MovingSource(),
        a_plan,
        Path(folder),
        accelerator=make_accelerator(cpu=True, accumulation=a_plan.accumulation),
        validation=MovingSource(seed=9),
        **options,
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    a_plan = plan(steps=args.steps)
    a_plan = plan(steps=args.steps, phases=[{**a_plan.phases[0], "batch_size": args.batch}])
    stage = TinyStage(seconds=args.seconds, noise=args.noise)
    try:
        trainer(args.folder, stage, a_plan).run(resume=args.resume)
    except Gen3RError as error:
        print(error, flush=True)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
