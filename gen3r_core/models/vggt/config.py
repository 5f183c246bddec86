"""Configuration of VGGT: frozen dataclasses, our own file format and the published one.

The default values are those of VGGT-1B (arXiv 2503.11651, section 3 and its appendix on
implementation): a DINOv2 ViT-L/14 with registers, 24 frame and 24 global blocks, and heads
that read blocks 4, 11, 17 and 23 (counted from 0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gen3r_core.errors import CheckpointError

# What the published config.json calls our fields, per nested object; "" is the top level.
_PUBLISHED_NAMES: dict[str, dict[str, str]] = {
    "": {"img_size": "image_size", "patch_size": "patch_size", "embed_dim": "embed_dim"},
    "aggregator": {
        "img_size": "image_size",
        "patch_size": "patch_size",
        "embed_dim": "embed_dim",
        "depth": "depth",
        "num_heads": "num_heads",
        "mlp_ratio": "mlp_ratio",
        "num_register_tokens": "num_register_tokens",
        "rope_freq": "rope_base",
    },
    "patch_embed": {
        "img_size": "image_size",
        "patch_size": "patch_size",
        "embed_dim": "embed_dim",
        "depth": "depth",
        "num_heads": "num_heads",
        "mlp_ratio": "mlp_ratio",
        "num_register_tokens": "num_register_tokens",
    },
    "camera_head": {
        "num_heads": "num_heads",
        "trunk_depth": "trunk_depth",
        "num_iterations": "num_iterations",
        "mlp_ratio": "mlp_ratio",
    },
    "dpt_head": {
        "features": "features",
        "out_channels": "out_channels",
        "hidden": "hidden",
        "intermediate_layer_idx": "layers",
    },
}

# Published settings that this implementation supports at one value only.
_FIXED_SETTINGS: dict[str, tuple[Any, ...]] = {
    "interpolate_antialias": (True,),
    "interpolate_offset": (0.0,),
    "block_chunks": (0,),
    "qk_norm": (True,),
    "aa_order": (["frame", "global"],),
    "aa_block_size": (1,),
    "enable_camera": (True,),
    "enable_point": (True,),
    "enable_depth": (True,),
    "enable_track": (True, False),  # the track head is never built: its weights have no use here
}


@dataclass(frozen=True)
class DinoV2Config:
    """The patch-embedding vision transformer (arXiv 2304.07193, registers of arXiv 2309.16588).

    Attributes:
        image_size: side in pixels of the square image whose patch grid the stored position
            embedding covers; other sizes resample it.
        patch_size: side of a patch in pixels.
        embed_dim: channels of a token.
        depth: number of blocks.
        num_heads: attention heads of a block.
        mlp_ratio: hidden channels of a block's MLP over ``embed_dim``.
        num_register_tokens: register tokens between the class token and the patches.

    Raises:
        CheckpointError: a value is impossible; the message names it.
    """

    image_size: int = 518
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 4

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "embed_dim", "depth", "num_heads", "num_register_tokens"):
            _require_positive_int(f"patch_embed.{name}", getattr(self, name))
        _require_positive_number("patch_embed.mlp_ratio", self.mlp_ratio)
        _require_multiple("patch_embed.image_size", self.image_size, self.patch_size, "patch_embed.patch_size")
        _require_multiple("patch_embed.embed_dim", self.embed_dim, self.num_heads, "patch_embed.num_heads")

    @property
    def native_grid(self) -> tuple[int, int]:
        """``(rows, columns)`` of patches that the stored position embedding covers."""
        side = self.image_size // self.patch_size
        return side, side

    @classmethod
    def from_published(cls, config: Mapping[str, Any]) -> DinoV2Config:
        """Read constructor arguments under their published names (``img_size`` and so on).

        Raises:
            CheckpointError: as for :meth:`VGGTConfig.from_published`.
        """
        return cls(**_translate("patch_embed", config))


@dataclass(frozen=True)
class CameraHeadConfig:
    """The iterative camera head (arXiv 2503.11651, "camera predictions").

    Attributes:
        num_heads: attention heads of a trunk block.
        trunk_depth: blocks of the trunk, shared by all iterations.
        num_iterations: refinements of the pose encoding.
        mlp_ratio: hidden channels of a trunk block's MLP over its channels.

    Raises:
        CheckpointError: a value is impossible; the message names it.
    """

    num_heads: int = 16
    trunk_depth: int = 4
    num_iterations: int = 4
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        for name in ("num_heads", "trunk_depth", "num_iterations"):
            _require_positive_int(f"camera_head.{name}", getattr(self, name))
        _require_positive_number("camera_head.mlp_ratio", self.mlp_ratio)


@dataclass(frozen=True)
class DenseHeadConfig:
    """The depth and point heads, both of the DPT design (arXiv 2103.13413).

    Attributes:
        features: channels of the fusion stages, a multiple of 8.
        out_channels: channels of the four reassembled maps, at 4, 2, 1 and 1/2 times the
            patch grid; multiples of 4.
        hidden: channels before the last convolution.

    Raises:
        CheckpointError: a value is impossible; the message names it.
    """

    features: int = 256
    out_channels: tuple[int, ...] = (256, 512, 1024, 1024)
    hidden: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "out_channels", _int_tuple("dense_head.out_channels", self.out_channels))
        for name in ("features", "hidden"):
            _require_positive_int(f"dense_head.{name}", getattr(self, name))
        _require_multiple("dense_head.features", self.features, 8)
        if len(self.out_channels) != 4:
            raise CheckpointError(f"dense_head.out_channels must hold 4 numbers, got {list(self.out_channels)}")
        for channels in self.out_channels:
            _require_positive_int("dense_head.out_channels", channels)
            _require_multiple("dense_head.out_channels", channels, 4)


@dataclass(frozen=True)
class VGGTConfig:
    """The whole network.

    Attributes:
        image_size: side in pixels of the square images the network was made for (any
            multiple of ``patch_size`` works); equals ``patch_embed.image_size``.
        patch_size: side of a patch in pixels; equals ``patch_embed.patch_size``.
        embed_dim: channels ``C`` of a token between blocks; the heads see ``2C``.
        depth: number of frame blocks, and of global blocks.
        num_heads: attention heads of those blocks.
        mlp_ratio: hidden channels of a block's MLP over ``embed_dim``.
        num_register_tokens: register tokens of the alternating blocks, beside one camera token.
        rope_base: base of the rotary frequencies.
        layers: the blocks, ascending from 0, whose outputs the heads read.
        patch_embed: the image encoder.
        camera_head: the camera head.
        dense_head: the depth and point heads.

    Raises:
        CheckpointError: a value is impossible; the message names it.
    """

    image_size: int = 518
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 4
    rope_base: float = 100.0
    layers: tuple[int, ...] = (4, 11, 17, 23)
    patch_embed: DinoV2Config = field(default_factory=DinoV2Config)
    camera_head: CameraHeadConfig = field(default_factory=CameraHeadConfig)
    dense_head: DenseHeadConfig = field(default_factory=DenseHeadConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _int_tuple("layers", self.layers))
        for name in ("image_size", "patch_size", "embed_dim", "depth", "num_heads", "num_register_tokens"):
            _require_positive_int(name, getattr(self, name))
        _require_positive_number("mlp_ratio", self.mlp_ratio)
        _require_positive_number("rope_base", self.rope_base)
        _require_multiple("embed_dim", self.embed_dim, self.num_heads, "num_heads")
        _require_multiple("embed_dim / num_heads", self.embed_dim // self.num_heads, 4)  # two axes, pairs of channels
        _require_multiple("2 * embed_dim", 2 * self.embed_dim, self.camera_head.num_heads, "camera_head.num_heads")
        for name in ("image_size", "patch_size", "embed_dim"):
            ours, theirs = getattr(self, name), getattr(self.patch_embed, name)
            if ours != theirs:
                raise CheckpointError(f"{name} is {ours} but patch_embed.{name} is {theirs}; they must be equal")
        if len(self.layers) != len(self.dense_head.out_channels):
            raise CheckpointError(
                f"layers must hold one block for each of dense_head.out_channels "
                f"({len(self.dense_head.out_channels)}), got {list(self.layers)}"
            )
        inside = all(0 <= layer < self.depth for layer in self.layers)
        if not inside or sorted(set(self.layers)) != list(self.layers):
            raise CheckpointError(
                f"layers must be ascending and between 0 and depth - 1 = {self.depth - 1}, got {list(self.layers)}"
            )

    @property
    def special_tokens(self) -> int:
        """Tokens before the patches of a frame: one camera token and the registers."""
        return 1 + self.num_register_tokens

    def to_dict(self) -> dict[str, Any]:
        """The configuration as nested dictionaries and lists, ready for JSON."""
        plain = asdict(self)
        plain["layers"] = list(self.layers)
        plain["dense_head"]["out_channels"] = list(self.dense_head.out_channels)
        return plain

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VGGTConfig:
        """Read what :meth:`to_dict` wrote; keys left out take the full-size defaults.

        Raises:
            CheckpointError: a key is unknown or a value impossible; the message names it.
        """
        values = dict(_require_mapping("the VGGT config", config))
        _reject_unknown(values, {item.name for item in fields(cls)}, "")
        nested: dict[str, type[DinoV2Config | CameraHeadConfig | DenseHeadConfig]] = {
            "patch_embed": DinoV2Config,
            "camera_head": CameraHeadConfig,
            "dense_head": DenseHeadConfig,
        }
        for name, kind in nested.items():
            if name in values:
                part = dict(_require_mapping(name, values[name]))
                _reject_unknown(part, {item.name for item in fields(kind)}, f"{name}.")
                values[name] = kind(**part)
        return cls(**values)

    @classmethod
    def from_published(cls, config: Mapping[str, Any]) -> VGGTConfig:
        """Read the config.json of the published checkpoint.

        That file holds ``img_size``, ``patch_size`` and ``embed_dim``. Reduced networks add
        the constructor arguments of the parts under ``aggregator``, ``patch_embed``,
        ``camera_head`` and ``dpt_head``, which win over the top level. What is left out takes
        the full-size defaults; the patch embedding follows the aggregator's sizes. Keys that
        begin with an underscore are remarks of the writing library and are passed over.

        Raises:
            CheckpointError: a key is unknown, a setting is not supported, or a value is
                impossible; the message names it.
        """
        config = _require_mapping("the published VGGT config", config)
        sections = {name: config[name] for name in _PUBLISHED_NAMES if name and name in config}
        top = _translate("", {name: value for name, value in config.items() if name not in sections})
        parts = {name: _translate(name, sections.get(name, {})) for name in _PUBLISHED_NAMES if name}

        values = top | parts["aggregator"]
        shared = ("image_size", "patch_size", "embed_dim")
        encoder = {name: values[name] for name in shared if name in values} | parts["patch_embed"]
        values |= {name: encoder[name] for name in shared if name in encoder and name not in values}
        if "image_size" in encoder:  # the aggregator's own figure has no effect of its own
            values["image_size"] = encoder["image_size"]
        if "layers" in parts["dpt_head"]:
            values["layers"] = parts["dpt_head"].pop("layers")
        return cls(
            **values,
            patch_embed=DinoV2Config(**encoder),
            camera_head=CameraHeadConfig(**parts["camera_head"]),
            dense_head=DenseHeadConfig(**parts["dpt_head"]),
        )


def _translate(section: str, config: object) -> dict[str, Any]:
    """Constructor arguments of our dataclass from one published section, checked."""
    prefix = f"{section}." if section else ""
    names, values = _PUBLISHED_NAMES[section], {}
    for key, value in _require_mapping(section, config).items():
        if key in names:
            values[names[key]] = value
        elif key in _FIXED_SETTINGS:
            if value not in _FIXED_SETTINGS[key]:
                raise CheckpointError(
                    f"VGGT config: {prefix}{key} is {value!r}, but only {_FIXED_SETTINGS[key][0]!r} is supported"
                )
        elif key == "init_values":
            # Where training starts; without a value there would be no layer scale.
            _require_positive_number(f"{prefix}{key}", value)
        elif not str(key).startswith("_"):
            _reject_unknown({key: value}, set(names), prefix)
    return values


def _reject_unknown(values: Mapping[str, Any], known: set[str], prefix: str) -> None:
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown:
        raise CheckpointError(f"VGGT config: unknown key {prefix + unknown[0]!r}; known are {', '.join(sorted(known))}")


def _require_mapping(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise CheckpointError(f"VGGT config: {name} must be a table of keys and values, got {value!r}")
    return value


def _require_positive_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"VGGT config: {name} must be a positive whole number, got {value!r}")


def _require_positive_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise CheckpointError(f"VGGT config: {name} must be a positive number, got {value!r}")


def _require_multiple(name: str, value: int, divisor: int, divisor_name: str = "") -> None:
    if value % divisor:
        what = f"{divisor_name} = {divisor}" if divisor_name else str(divisor)
        raise CheckpointError(f"VGGT config: {name} = {value} must be a multiple of {what}")


def _int_tuple(name: str, value: object) -> tuple[int, ...]:
    good = isinstance(value, Sequence) and not isinstance(value, str)
    if not good or not all(isinstance(item, int) and not isinstance(item, bool) for item in value):  # type: ignore[attr-defined]
        raise CheckpointError(f"VGGT config: {name} must be a list of whole numbers, got {value!r}")
    return tuple(value)  # type: ignore[arg-type]
