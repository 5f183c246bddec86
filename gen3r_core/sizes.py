"""Models of named sizes with random weights: for benchmarks and for trying things without a download."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from accelerate import init_empty_weights
from tokenizers import Regex, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as RawTokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast

from gen3r_core.checkpoint.components import SPECS, Config
from gen3r_core.checkpoint.folder import SCHEDULER_DEFAULTS
from gen3r_core.errors import InputError
from gen3r_core.execution.levels import LEVELS, Level
from gen3r_core.models.text_encoder import Tokenizer
from gen3r_core.pipeline import Gen3RPipeline

WEIGHT_STD = 0.02
"""Standard deviation of random weight matrices; norms and biases are ones and zeros."""

_CAMERA_BIAS = "camera_head.pose_branch.fc2.bias"


@dataclass(frozen=True)
class ModelSize:
    """Sizes of all networks.

    Attributes:
        num_frames: default frames.
        image_size: default ``(height, width)``.
        components: our configuration of each network.
    """

    num_frames: int
    image_size: tuple[int, int]
    components: dict[str, Config]


_TINY: dict[str, Config] = {
    "transformer": {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "text_dim": 32,
        "text_len": 48,
        "freq_dim": 32,
        "ffn_dim": 48,
        "num_layers": 2,
        "image_dim": 32,
    },
    "video_vae": {"base_dim": 8},
    "geometry_adapter": {"token_channels": 160, "hidden_dim": 8},
    "vggt": {
        "image_size": 56,
        "embed_dim": 16,
        "depth": 4,
        "num_heads": 2,
        "layers": [0, 1, 2, 3],
        "patch_embed": {"image_size": 56, "embed_dim": 16, "depth": 1, "num_heads": 2},
        "camera_head": {"num_heads": 2, "trunk_depth": 1},
        "dense_head": {"features": 16, "out_channels": [8, 8, 8, 8]},
    },
    "text_encoder": {
        "vocab_size": 128,
        "hidden_size": 32,
        "attention_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "num_layers": 2,
    },
    "image_encoder": {
        "image_size": 28,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "num_layers": 1,
    },
}


def _read_size(text: str) -> ModelSize:
    values = json.loads(text)
    height, width = values["image_size"]
    return ModelSize(values["num_frames"], (height, width), values["components"])


SIZES: dict[str, ModelSize] = {
    "tiny": ModelSize(5, (112, 112), _TINY),
    "small": _read_size(files("gen3r_core").joinpath("small", "sizes.json").read_text(encoding="utf-8")),
    "full": ModelSize(49, (560, 560), {name: {} for name in SPECS}),
}
"""``full`` is the published model's size, ``small`` that of the model in this package, from ``small/sizes.json``;
``tiny`` runs on any CPU in a second."""


def named_config(size: str, component: str, changes: Mapping[str, Any] | None = None) -> Config:
    """A network's configuration in a model of a named size.

    Args:
        size: one of :data:`SIZES`.
        component: our name of the network.
        changes: values to replace; tables within are changed value by value, lists as a whole.

    Returns:
        A copy that is the caller's own.

    Raises:
        InputError: unknown size.
    """
    return _changed(deepcopy(named_size(size).components[component]), changes or {})


def _changed(values: Config, changes: Mapping[str, Any]) -> Config:
    for key, value in changes.items():
        inner = values.get(key)
        values[key] = _changed(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return values


def named_size(name: str) -> ModelSize:
    """Sizes of all networks of a model.

    Raises:
        InputError: unknown size.
    """
    if name not in SIZES:
        raise InputError(f"model size {name!r} is unknown; choose one of: {', '.join(SIZES)}")
    return SIZES[name]


def character_tokenizer() -> Tokenizer:
    """A tokenizer of printable ASCII characters, with UMT5's special ids (padding 0, end of text 1, unknown 2)."""
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    for code in range(32, 127):
        vocabulary[chr(code)] = len(vocabulary)
    raw = RawTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - no password
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    raw.decoder = decoders.Fuse()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return Tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")  # noqa: S106
    )


def draw_weight(name: str, weight: torch.Tensor, generator: torch.Generator) -> None:
    """Fill a weight in place: matrices normal with :data:`WEIGHT_STD`, vectors one for norms, zero for biases.

    VGGT's last camera bias is such that four refinements give the identity pose and about one radian of view; of zeros,
    it would see nothing.

    Args:
        name: of the weight in its network.
        weight: of any shape.
        generator: on the weight's device.
    """
    leaf = name.rpartition(".")[2]
    if name == _CAMERA_BIAS:
        weight.copy_(torch.tensor([0, 0, 0, 0, 0, 0, 0.25, 0.25, 0.25]))
    elif leaf == "bias":
        weight.zero_()
    elif weight.squeeze().ndim <= 1 and leaf in ("weight", "gamma"):
        weight.fill_(1.0)
    else:
        weight.normal_(std=WEIGHT_STD, generator=generator)


def random_component(
    name: str,
    config: Config,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    generator: torch.Generator,
    home: torch.device | str | None = None,
) -> nn.Module:
    """One network with random weights, of which no two lie on a device that is not their home.

    Args:
        name: of the component.
        config: its sizes.
        device: where its weights are drawn, one after the other.
        dtype: of the weights, but for those that stay float32.
        generator: on that device.
        home: where the weights lie then; None is the same device.
    """
    spec = SPECS[name]
    home = device if home is None else home
    with init_empty_weights(include_buffers=False):
        module = spec.build(config)
    for key, parameter in module.named_parameters():
        kept = dtype.itemsize < 4 and any(part in key for part in spec.keep_in_float32)
        owner, _, leaf = key.rpartition(".")
        weight = torch.empty(parameter.shape, device=device, dtype=torch.float32 if kept else dtype)
        draw_weight(key, weight, generator)
        setattr(module.get_submodule(owner), leaf, nn.Parameter(weight.to(home), requires_grad=False))
    if name == "text_encoder":
        module.model.tie_weights()  # type: ignore[union-attr, operator]
    return module.to(home).eval()  # buffers


def random_pipeline(
    size: str = "tiny",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    text_encoder: bool = True,
    level: Level = LEVELS[0],
) -> Gen3RPipeline:
    """A whole pipeline with random weights.

    Args:
        size: one of :data:`SIZES`.
        device: where it lies.
        dtype: of the weights.
        seed: of the weights; the same on one device and dtype.
        text_encoder: False leaves the text encoder out (prompts as embeddings only).
        level: how sparing with the device's memory.

    Raises:
        InputError: unknown size.
    """
    named = named_size(size)
    generator = torch.Generator(device=device).manual_seed(seed)
    parts: dict[str, Any] = {}
    for name, config in named.components.items():
        if not text_encoder and name == "text_encoder":
            continue
        home = "cpu" if name in level.away else device
        parts[name] = random_component(name, config, device=device, dtype=dtype, generator=generator, home=home)
    return Gen3RPipeline(
        **parts,
        tokenizer=character_tokenizer() if text_encoder else None,
        scheduler=SCHEDULER_DEFAULTS,
        num_frames=named.num_frames,
        image_size=named.image_size,
        device=device,
        level=level,
    )
