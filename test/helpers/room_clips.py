"""Clips of a coloured box room with exact depth and cameras: a stand-in for rendered worlds."""

from __future__ import annotations

import torch

from gen3r_core.training.batch import ClipBatch

WALLS = torch.tensor([[-2.0, -1.5, -2.0], [2.0, 1.5, 3.0]])


def _rotation(yaw, pitch):
    c, s, one, zero = yaw.cos(), yaw.sin(), torch.ones_like(yaw), torch.zeros_like(yaw)
    turn = torch.stack([c, zero, s, zero, one, zero, -s, zero, c], -1).unflatten(-1, (3, 3))
    c, s = pitch.cos(), pitch.sin()
    return turn @ torch.stack([one, zero, zero, zero, c, -s, zero, s, c], -1).unflatten(-1, (3, 3))


def room_batch(seed=0, clips=2, frames=5, size=(28, 28), depth=True, cameras=True):
    """Clips with smooth random motion; colours vary with the place on the wall."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size

    def draw(*shape):
        return torch.rand(*shape, generator=generator) * 2 - 1

    time = torch.linspace(0, 1, frames)[None, :, None]
    start, motion = 0.3 * draw(clips, 1, 3), 0.8 * draw(clips, 1, 3)
    angles = 0.5 * draw(clips, 1, 2) + 0.5 * draw(clips, 1, 2) * time
    T = torch.eye(4).repeat(clips, frames, 1, 1)
    T[..., :3, :3] = _rotation(angles[..., 0], angles[..., 1])
    T[..., :3, 3] = start + motion * time
    focal = width * (0.7 + 0.2 * draw(clips, 1))
    K = torch.zeros(clips, frames, 3, 3)
    K[..., 0, 0], K[..., 1, 1], K[..., 0, 2], K[..., 1, 2], K[..., 2, 2] = focal, focal, width / 2, height / 2, 1
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x = (u - width / 2) / focal[..., None, None].expand(clips, frames, 1, 1)
    y = (v - height / 2) / focal[..., None, None].expand(clips, frames, 1, 1)
    rays = torch.stack([x, y, torch.ones_like(x)], -1)
    world = (T[:, :, None, None, :3, :3] @ rays[..., None])[..., 0]
    origin = T[:, :, None, None, :3, 3]
    away = torch.where(world > 0, WALLS[1], WALLS[0])
    distance = ((away - origin) / world).amin(-1)
    points = origin + distance[..., None] * world
    phase = 6.28 * torch.rand(clips, 1, 1, 1, 3, generator=generator)
    colors = (0.5 + 0.45 * torch.sin(2.5 * points + phase + points.roll(1, -1))).movedim(-1, 2)
    return ClipBatch(
        colors=colors.contiguous(),
        depth=distance if depth else None,
        intrinsics=K if cameras else None,
        T_world_cam=T if cameras else None,
        captions=[f"a room number {seed} with {'red' if i % 2 else 'blue'} walls" for i in range(clips)],
    )


class RoomSource:
    """A clip source over such rooms."""

    def __init__(self, seed=0):
        self.seed = seed
        self.asked = []

    def batch(self, step, batch_size, *, num_frames, size, device):
        self.asked.append(step)
        return room_batch(1000 * self.seed + step, batch_size, num_frames, size).to(device)


def train(stage, batch, steps, lr=1e-3, *, start=0, optimizer=None, seed=0):
    """Plain AdamW on one batch; returns the losses and the optimizer."""
    trained = [p for p in stage.module.parameters() if p.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(trained, lr, betas=(0.9, 0.95))
    losses = []
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(seed * 100_003 + step)
        loss, _ = stage.loss(batch, step, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, optimizer


def gradient_report(module):
    """Names of trained parameters without gradient, of those where it is zero, and of frozen ones that have one."""
    missing, zero, wrong = [], [], []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            wrong += [name] * (parameter.grad is not None)
        elif parameter.grad is None:
            missing.append(name)
        elif not bool(parameter.grad.abs().max() > 0):
            zero.append(name)
    return missing, zero, wrong


# --- tiny parts, written as component folders ------------------------------------------------------------

VGGT_TINY = {
    "image_size": 56,
    "embed_dim": 16,
    "depth": 4,
    "num_heads": 2,
    "layers": [0, 1, 2, 3],
    "patch_embed": {"image_size": 56, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "camera_head": {"num_heads": 2, "trunk_depth": 1},
    "dense_head": {"features": 16, "out_channels": [8, 8, 8, 8]},
}
ADAPTER_TINY = {"hidden_dim": 8, "num_res_blocks": 1}
FLOW_TINY = {
    "config": {
        "num_attention_heads": 2,
        "attention_head_dim": 48,
        "text_dim": 32,
        "text_len": 40,
        "freq_dim": 32,
        "ffn_dim": 96,
        "num_layers": 1,
        "image_dim": 32,
    },
    "text_encoder_config": {
        "vocab_size": 64,
        "hidden_size": 32,
        "attention_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "num_layers": 1,
    },
    "image_encoder_config": {
        "image_size": 28,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "num_layers": 1,
    },
    "validation_clips": 0,
}


def write_parts(folder, *, adapter=True):
    """Folders of a random VGGT, video VAE (with a narrow posterior) and geometry adapter, and captions."""
    from gen3r_core.training import geometry_adapter, vggt
    from gen3r_core.training.components import trained_component
    from gen3r_core.training.export import export_component

    vggt.from_config({"config": VGGT_TINY}, "cpu").export(folder / "vggt")
    sizes = {"base_dim": 8, "num_res_blocks": 1, "latents_mean": [1.0] * 16, "latents_std": [0.5] * 16}
    vae, _ = trained_component("video_vae", sizes, None, "cpu")
    with torch.no_grad():
        vae.quant_conv.bias[16:] -= 8
    export_component(folder / "video_vae", "video_vae", vae)
    if adapter:
        values = {"config": ADAPTER_TINY, "vggt": str(folder), "video_vae": str(folder)}
        stage = geometry_adapter.from_config(values, "cpu")
        with torch.no_grad():
            stage.module.quant_conv.bias[16:] -= 8
        stage.finish([room_batch(9, 1, 5, (112, 112))])
        stage.export(folder / "geometry_adapter")
    captions = [caption for seed in range(30) for caption in room_batch(seed, 2, 1, (1, 1)).captions]
    (folder / "captions.txt").write_text("\n".join(captions))
    return folder
