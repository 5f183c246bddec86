"""The six networks of Gen3R: how each is configured, built, and named on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKLWan
from torch import nn

from gen3r_core.checkpoint import published
from gen3r_core.checkpoint.keymap import IDENTITY, KeyMap
from gen3r_core.checkpoint.tensors import TensorInfo
from gen3r_core.errors import CheckpointError
from gen3r_core.models import video_vae
from gen3r_core.models.geometry_adapter import GeometryAdapter, GeometryAdapterConfig
from gen3r_core.models.image_encoder import ImageEncoder, ImageEncoderConfig
from gen3r_core.models.text_encoder import TextEncoder, TextEncoderConfig
from gen3r_core.models.transformer import CameraTransformer
from gen3r_core.models.vggt import VGGT, VGGTConfig

Config = dict[str, Any]
Infos = Mapping[str, TensorInfo]

TRANSFORMER_OPTIONS = (
    "patch_size",
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "out_channels",
    "text_dim",
    "text_len",
    "freq_dim",
    "ffn_dim",
    "num_layers",
    "cross_attn_norm",
    "eps",
    "image_dim",
    "camera_channels",
)

VIDEO_VAE_OPTIONS = (
    "base_dim",
    "decoder_base_dim",
    "z_dim",
    "dim_mult",
    "num_res_blocks",
    "attn_scales",
    "temperal_downsample",
    "latents_mean",
    "latents_std",
    "is_residual",
    "in_channels",
    "out_channels",
    "patch_size",
)


@dataclass(frozen=True)
class ComponentSpec:
    """One network.

    Attributes:
        name: our name, and folder in our layout.
        published: folder in the published layout.
        config_from_published: our configuration from the published ``config.json``.
        build: the module from our configuration (under meta construction when loading).
        config_of: our configuration from a built module.
        published_keys: rules for the published keys, given the published configuration, ours,
            and what the file holds.
        own_keys: rules for our own layout.
        keep_in_float32: parts of parameter names that stay float32 in a 16-bit model.
    """

    name: str
    published: str
    config_from_published: Callable[[Mapping[str, Any]], Config]
    build: Callable[[Config], nn.Module]
    config_of: Callable[[nn.Module], Config]
    published_keys: Callable[[Mapping[str, Any], Config, Infos], KeyMap]
    own_keys: KeyMap = IDENTITY
    keep_in_float32: tuple[str, ...] = ()


def _transformer_config(values: Mapping[str, Any]) -> Config:
    fixed = {"model_type": "i2v", "qk_norm": True, "add_ref_conv": False, "window_size": [-1, -1]}
    for key, supported in fixed.items():
        value = values.get(key, supported)
        if (list(value) if isinstance(value, tuple) else value) != supported:
            raise CheckpointError(f"transformer: {key} = {value!r} in config.json; only {supported!r} is supported")
    dim, heads = values.get("dim", 1536), values.get("num_heads", 12)
    if dim % heads:
        raise CheckpointError(f"transformer: dim {dim} is not a multiple of num_heads {heads}")
    return {
        "patch_size": list(values.get("patch_size", (1, 2, 2))),
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "in_channels": values.get("in_dim", 36),
        "out_channels": values.get("out_dim", 16),
        "text_dim": values.get("text_dim", 4096),
        "text_len": values.get("text_len", 512),
        "freq_dim": values.get("freq_dim", 256),
        "ffn_dim": values.get("ffn_dim", 8960),
        "num_layers": values.get("num_layers", 30),
        "cross_attn_norm": values.get("cross_attn_norm", True),
        "eps": values.get("eps", 1e-6),
        "image_dim": values.get("image_dim", 1280),
        "camera_channels": values.get("in_dim_control_adapter", 24)
        if values.get("add_control_adapter", True)
        else None,
    }


def _transformer_keys(values: Mapping[str, Any], config: Config, infos: Infos) -> KeyMap:
    """A base model has fewer input channels than Gen3R; the missing ones (mask) start at zero."""
    found = infos.get("patch_embedding.weight")
    extra = 0
    if found is not None and len(found.shape) == 5:
        extra = config["in_channels"] - found.shape[1]
    return published.transformer_keys(extra if values.get("pad_input_channels") and extra > 0 else 0)


def _build_from_options(
    build: Callable[..., nn.Module], options: tuple[str, ...], name: str
) -> Callable[[Config], nn.Module]:
    def construct(config: Config) -> nn.Module:
        unknown = sorted(set(config) - set(options))
        if unknown:
            raise CheckpointError(f"{name}: config.json has unknown keys {unknown}; known are {sorted(options)}")
        return build(**config)

    return construct


def _options_of(options: tuple[str, ...]) -> Callable[[nn.Module], Config]:
    def read(module: nn.Module) -> Config:
        values = {key: module.config[key] for key in options}  # type: ignore[index]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    return read


def _own_config(module: nn.Module) -> Config:
    values: Config = module.config.to_dict()  # type: ignore[union-attr, operator]
    return values


SPECS: dict[str, ComponentSpec] = {
    spec.name: spec
    for spec in (
        ComponentSpec(
            name="transformer",
            published="transformer",
            config_from_published=_transformer_config,
            build=_build_from_options(CameraTransformer, TRANSFORMER_OPTIONS, "transformer"),
            config_of=_options_of(TRANSFORMER_OPTIONS),
            published_keys=_transformer_keys,
            keep_in_float32=CameraTransformer.keep_in_float32,
        ),
        ComponentSpec(
            name="video_vae",
            published="wan_vae",
            config_from_published=video_vae.config_from_published,
            build=_build_from_options(AutoencoderKLWan, VIDEO_VAE_OPTIONS, "video_vae"),
            config_of=_options_of(VIDEO_VAE_OPTIONS),
            published_keys=lambda _values, config, _infos: published.video_vae_keys(config.get("num_res_blocks", 2)),
        ),
        ComponentSpec(
            name="geometry_adapter",
            published="geo_adapter",
            config_from_published=lambda values: GeometryAdapterConfig.from_published(values).to_dict(),
            build=lambda config: GeometryAdapter(GeometryAdapterConfig.from_dict(config)),
            config_of=_own_config,
            published_keys=lambda _values, _config, _infos: published.geometry_adapter_keys(),
        ),
        ComponentSpec(
            name="vggt",
            published="vggt",
            config_from_published=lambda values: VGGTConfig.from_published(values).to_dict(),
            build=lambda config: VGGT(VGGTConfig.from_dict(config)),
            config_of=_own_config,
            published_keys=lambda _values, _config, _infos: published.vggt_keys(),
        ),
        ComponentSpec(
            name="text_encoder",
            published="text_encoder",
            config_from_published=lambda values: TextEncoderConfig.from_published(values).to_dict(),
            build=lambda config: TextEncoder(TextEncoderConfig.from_dict(config)),
            config_of=_own_config,
            published_keys=lambda values, config, _infos: published.text_encoder_keys(
                config["num_layers"], shared_positions=bool(values.get("shared_pos", False))
            ),
            own_keys=published.own_text_encoder_keys(),
        ),
        ComponentSpec(
            name="image_encoder",
            published="clip_image_encoder",
            config_from_published=lambda values: ImageEncoderConfig.from_published(values).to_dict(),
            build=lambda config: ImageEncoder(ImageEncoderConfig.from_dict(config)),
            config_of=_own_config,
            published_keys=lambda _values, config, _infos: published.image_encoder_keys(config["num_layers"]),
        ),
    )
}
"""All networks by our name."""
