"""Random checkpoints as upstream lays them out: the published folder, and the parts its trainers load.

Keys come from ``published_shapes`` and not from the code under test. Values are drawn so that every
network's outputs are finite and vary; norms and layer scales are near one, biases small, nothing zero.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from published_shapes import (
    Shapes,
    clip_shapes,
    geo_adapter_shapes,
    text_encoder_shapes,
    transformer_shapes,
    vggt_shapes,
    wan_vae_shapes,
)
from safetensors.torch import save_file
from torch import Tensor

from gen3r_core.sizes import character_tokenizer

Config = dict[str, Any]
Configs = dict[str, Config]

SHAPES: dict[str, Callable[[Mapping[str, Any]], Shapes]] = {
    "transformer": transformer_shapes,
    "wan_vae": wan_vae_shapes,
    "geo_adapter": geo_adapter_shapes,
    "vggt": vggt_shapes,
    "text_encoder": text_encoder_shapes,
    "clip_image_encoder": clip_shapes,
}
"""Keys and shapes by published folder."""

OUR_NAMES = {
    "transformer": "transformer",
    "wan_vae": "video_vae",
    "geo_adapter": "geometry_adapter",
    "vggt": "vggt",
    "text_encoder": "text_encoder",
    "clip_image_encoder": "image_encoder",
}
"""Our component names by published folder."""

NUM_FRAMES = 5
SIZE = (112, 112)
"""What the tiny checkpoint generates quickly; the published layout's own default is 49 frames of 560x560."""

_TINY: Configs = {
    "transformer": {
        "model_type": "i2v",
        "patch_size": [1, 2, 2],
        "text_len": 48,
        "in_dim": 36,
        "dim": 24,
        "ffn_dim": 48,
        "freq_dim": 32,
        "text_dim": 32,
        "out_dim": 16,
        "num_heads": 2,
        "num_layers": 2,
        "window_size": [-1, -1],
        "qk_norm": True,
        "cross_attn_norm": True,
        "eps": 1e-6,
        "in_channels": 32,
        "hidden_size": 24,
        "add_control_adapter": True,
        "in_dim_control_adapter": 24,
        "add_ref_conv": False,
        "image_dim": 32,  # fixed in upstream's code
    },
    "wan_vae": {
        "latent_channels": 16,
        "temporal_compression_ratio": 4,
        "spacial_compression_ratio": 8,
        "dim": 8,  # fixed in upstream's code
    },
    "geo_adapter": {
        "latent_channels": 16,
        "hidden_dim": 8,
        "input_dim": 160,
        "output_dim": 160,
        "resample_scale": 10,
        "temporal_compression_ratio": 4,
        "spatial_compression_ratio": 8,
    },
    "vggt": {
        "img_size": 56,
        "patch_size": 14,
        "embed_dim": 16,
        "aggregator": {"depth": 4, "num_heads": 2},
        "patch_embed": {"depth": 1, "num_heads": 2},
        "camera_head": {"num_heads": 2, "trunk_depth": 1},
        "dpt_head": {"features": 16, "out_channels": [8, 8, 8, 8], "intermediate_layer_idx": [0, 1, 2, 3]},
    },
    "text_encoder": {
        "vocab": 128,
        "dim": 32,
        "dim_attn": 32,
        "dim_ffn": 64,
        "num_heads": 2,
        "num_layers": 2,
        "num_buckets": 32,
        "shared_pos": False,
        "dropout_p": 0.0,
    },
    "clip_image_encoder": {
        "embed_dim": 24,
        "image_size": 28,
        "patch_size": 14,
        "vision_dim": 32,
        "vision_mlp_ratio": 2,
        "vision_heads": 2,
        "vision_layers": 2,
        "vocab_size": 11,
        "max_text_len": 8,
        "text_dim": 16,
        "text_layers": 1,
    },
}

SCHEDULER: Config = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 2.0,
    "use_dynamic_shifting": False,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "invert_sigmas": False,
    "shift_terminal": None,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}


def tiny_configs() -> Configs:
    """A fresh copy of the tiny networks' published-style configurations, by published folder."""
    return deepcopy(_TINY)


def random_weights(shapes: Shapes, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Draw the values of a weight file."""
    weights = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        leaf = key.rpartition(".")[2]
        if key == "camera_head.pose_branch.fc2.bias":
            # After four refinements: near the identity, fields of view about one radian wide.
            value = torch.tensor([0, 0, 0, 0, 0, 0, 0.25, 0.25, 0.25]) + 0.01 * noise
        elif leaf == "gamma":
            value = (0.5 if ".ls" in key else 1.0) + 0.1 * noise
        elif leaf == "weight" and len(shape) == 1:
            value = 1 + 0.1 * noise
        elif leaf == "modulation":
            value = 0.1 * noise
        elif len(shape) > 1 and leaf != "bias":
            dense = key.startswith(("depth_head.", "point_head."))  # depth shall vary visibly
            value = noise / noise[0].numel() ** 0.5 if dense else 0.05 * noise
        else:
            value = 0.02 * noise
        weights[key] = value.to(dtype)
    return weights


def _generators(seed: int) -> dict[str, torch.Generator]:
    return {name: torch.Generator().manual_seed(seed * 100 + index) for index, name in enumerate(SHAPES)}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2))


def write_component(
    folder: Path, name: str, config: Config, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> None:
    """Write one component's folder as upstream saves it; ``name`` is the published one."""
    write_json(folder / "config.json", {"_class_name": "Published", "_diffusers_version": "0.33.1", **config})
    file = "model.safetensors" if name == "vggt" else "diffusion_pytorch_model.safetensors"
    save_file(random_weights(SHAPES[name](config), generator, dtype), folder / file, metadata={"format": "pt"})


def write_published(
    folder: Path, seed: int = 0, *, configs: Configs | None = None, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a complete random checkpoint in the published layout.

    Args:
        folder: created.
        seed: of the weights.
        configs: published-style configuration by published folder; None takes the tiny ones. Components
            that are left out are not written.
        dtype: of the weights.

    Returns:
        ``folder``. Generate from it with ``num_frames=NUM_FRAMES, size=SIZE``.
    """
    configs = tiny_configs() if configs is None else configs
    generators = _generators(seed)
    for name, config in configs.items():
        write_component(folder / name, name, config, generators[name], dtype)
    module = "gen3r.models"
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "Gen3RPipeline",
            "_diffusers_version": "0.33.1",
            **{name: [f"{module}.{name}", "Published"] for name in configs},
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        },
    )
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    character_tokenizer().save(folder / "tokenizer")
    return folder


@dataclass(frozen=True)
class WanParts:
    """Files as upstream's trainers load them.

    Attributes:
        base: Wan2.1-Fun base folder: transformer of 32 input channels, ``.pth`` parts, tokenizer.
        vggt_folder: VGGT-1B as a folder with ``config.json`` and ``model.safetensors``.
        vggt_file: the same weights as ``model.pt``, with the extra ``track_head.*`` keys of the published
            file; its ``config.json`` lies beside it.
        adapter_file: the adapter's training export, bare keys plus ``mean`` and ``std``, with its
            ``config.json`` beside it.
        configs: published-style configurations by our names, for ``open_parts(..., configs=)``: the
            sizes of the ``.pth`` parts stand in no file of this layout.
    """

    base: Path
    vggt_folder: Path
    vggt_file: Path
    adapter_file: Path
    configs: Configs


def write_wan_base(folder: Path, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> WanParts:
    """Write the parts under ``folder`` (``base``, ``vggt``, ``vggt_pt``, ``adapter``)."""
    configs, generators = tiny_configs(), _generators(seed)
    base = folder / "base"
    small = {**configs["transformer"], "in_dim": 32}
    write_component(base, "transformer", small, generators["transformer"], dtype)
    pickles: dict[str, tuple[str, Shapes]] = {
        "wan_vae": ("Wan2.1_VAE.pth", wan_vae_shapes(configs["wan_vae"], prefix="")),
        "text_encoder": ("models_t5_umt5-xxl-enc-bf16.pth", text_encoder_shapes(configs["text_encoder"])),
        "clip_image_encoder": (
            "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
            clip_shapes(configs["clip_image_encoder"], prefix=""),
        ),
    }
    for name, (file, shapes) in pickles.items():
        torch.save(random_weights(shapes, generators[name], dtype), base / file)
    character_tokenizer().save(base / "google" / "umt5-xxl")

    vggt = folder / "vggt"
    write_component(vggt, "vggt", configs["vggt"], generators["vggt"], dtype)
    shapes = vggt_shapes(configs["vggt"])
    weights = random_weights(shapes, _generators(seed)["vggt"], dtype)
    weights |= random_weights(
        {"track_head.feature_extractor.norm.weight": (32,), "track_head.tracker.corr_mlp.fc1.weight": (8, 16)},
        generators["vggt"],
        dtype,
    )
    write_json(folder / "vggt_pt" / "config.json", configs["vggt"])
    torch.save(weights, folder / "vggt_pt" / "model.pt")

    shapes = geo_adapter_shapes(configs["geo_adapter"], prefix="") | {"mean": (16,), "std": (16,)}
    write_json(folder / "adapter" / "config.json", configs["geo_adapter"])
    save_file(random_weights(shapes, generators["geo_adapter"], dtype), folder / "adapter" / "adapter.safetensors")
    return WanParts(
        base=base,
        vggt_folder=vggt,
        vggt_file=folder / "vggt_pt" / "model.pt",
        adapter_file=folder / "adapter" / "adapter.safetensors",
        configs={OUR_NAMES[name]: config for name, config in configs.items() if name != "transformer"},
    )
