"""The networks of the transformer's stage: options, what is trained, first weights, and putting it all together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from gen3r_core.errors import InputError
from gen3r_core.fit import check_fit
from gen3r_core.models.geometry_adapter import GeometryAdapter
from gen3r_core.models.image_encoder import ImageEncoder
from gen3r_core.models.text_encoder import TextEncoder, Tokenizer
from gen3r_core.models.transformer import CameraTransformer
from gen3r_core.training.components import chosen_sizes, load_frozen, trained_component
from gen3r_core.training.flow_clips import ClipEncoder
from gen3r_core.training.options import check_range, choose
from gen3r_core.training.teachers import Teachers, parse_dtype
from gen3r_core.training.tokenizer import read_captions, train_tokenizer

__all__ = ["FlowNetworks", "TransformerOptions", "build_networks", "initialise_transformer"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "spiece.model")
_FROZEN = ("vggt", "video_vae", "geometry_adapter")


@dataclass(frozen=True)
class TransformerOptions:
    """Keys of the stage's configuration.

    Attributes:
        size: row of :data:`gen3r_core.sizes.SIZES` that gives the sizes of a transformer from scratch, and of text and
            image encoder where they are trained and have no folder of their own.
        config: sizes of the transformer that differ from it, or all of them.
        initial: folder to start from, in place of both.
        checkpoint: folder of the parts that have no folder of their own below.
        vggt: folder of the trained VGGT.
        video_vae: folder of the trained video VAE.
        geometry_adapter: folder of the trained geometry adapter.
        train_encoders: train text and image encoder jointly (small model); otherwise they are frozen.
        text_encoder: folder of the text encoder (to start from, where it is trained).
        text_encoder_config: its sizes from scratch, where it is trained; as ``config``.
        image_encoder: folder of the image encoder.
        image_encoder_config: its sizes from scratch, where it is trained; as ``config``.
        tokenizer: folder of the tokenizer; by default that of ``text_encoder``'s or ``checkpoint``'s folder.
        captions: text file to train a tokenizer from, one caption a line, in place of ``tokenizer``.
        seed: of first weights and of draws from the pool.
        shift: of the noise levels, as the scheduler's configuration has it.
        tasks: how often 1view, 2view and allview are drawn, in relation to each other.
        drop_text: probability of the empty prompt in place of the caption.
        drop_cameras: probability of free cameras.
        camera_scale: "vggt" brings true camera paths to VGGT's units of each clip, "none" takes poses as they are.
        geometry_weight: factor of the geometry half's loss.
        clips_at_a_time: clips that are encoded together.
        pool_clips: size of the pool of encoded clips; 0 encodes every batch anew.
        pool_batch: clips that enter the pool together.
        pool_every: steps between them, those of all processes counted together.
        whole_clip: run the video VAE over whole clips; otherwise in chunks (less memory).
        frozen_dtype: of frozen weights, "float32" or "bfloat16".
        gradient_checkpointing: keep no activations of the blocks but compute them again (full size).
        compile: compile the transformer with ``torch.compile``.
        validation_clips: clips that are generated when validating; 0 measures the flow loss alone.
        validation_steps: steps of such a generation.
        validation_guidance: weight of the prompt in it; 1 runs unguided.

    Raises:
        InputError: a value is out of range.
    """

    size: str = ""
    config: dict[str, Any] | None = None
    initial: str | None = None
    checkpoint: str = ""
    vggt: str = ""
    video_vae: str = ""
    geometry_adapter: str = ""
    train_encoders: bool = True
    text_encoder: str = ""
    text_encoder_config: dict[str, Any] | None = None
    image_encoder: str = ""
    image_encoder_config: dict[str, Any] | None = None
    tokenizer: str = ""
    captions: str = ""
    seed: int = 0
    shift: float = 2.0
    tasks: tuple[float, float, float] = (1.0, 1.0, 1.0)
    drop_text: float = 0.2
    drop_cameras: float = 0.5
    camera_scale: str = "vggt"
    geometry_weight: float = 1.0
    clips_at_a_time: int = 8
    pool_clips: int = 0
    pool_batch: int = 8
    pool_every: int = 1
    whole_clip: bool = True
    frozen_dtype: str = "float32"
    gradient_checkpointing: bool = False
    compile: bool = False
    validation_clips: int = 2
    validation_steps: int = 8
    validation_guidance: float = 1.0

    def __post_init__(self) -> None:
        choose("camera_scale", self.camera_scale, ("vggt", "none"))
        for name in ("drop_text", "drop_cameras"):
            check_range(name, getattr(self, name), 0, 1)
        for name in ("clips_at_a_time", "pool_batch", "pool_every", "validation_steps"):
            check_range(name, getattr(self, name), 1)
        for name in ("geometry_weight", "pool_clips", "validation_clips", "validation_guidance"):
            check_range(name, getattr(self, name), 0)
        check_range("shift", self.shift, 1e-3)
        for weight in self.tasks:
            check_range("tasks", weight, 0)
        if not sum(self.tasks) > 0:
            raise InputError("option 'tasks' gives no task any weight; give at least one a positive number")
        if not self.train_encoders and (self.text_encoder_config or self.image_encoder_config or self.captions):
            raise InputError(
                "options 'text_encoder_config', 'image_encoder_config' and 'captions' make new encoders, which have "
                "to be trained: set 'train_encoders', or name folders of trained ones"
            )


class FlowNetworks(nn.Module):
    """What the stage trains: the transformer, and text and image encoder if they are trained jointly.

    Args:
        transformer: always trained.
        text_encoder: None where it is frozen.
        image_encoder: None where it is frozen.
    """

    def __init__(
        self, transformer: CameraTransformer, text_encoder: TextEncoder | None, image_encoder: ImageEncoder | None
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder


@torch.no_grad()
def initialise_transformer(transformer: CameraTransformer, generator: torch.Generator) -> None:
    """First weights as Wan2.1 draws them (arXiv 2503.20314, public code): Xavier, small embeddings, output zero.

    Args:
        transformer: changed in place.
        generator: on the CPU, so that a seed means the same weights on every device.
    """

    def fill(weight: Tensor, std: float) -> None:
        weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    for name, layer in transformer.named_modules():
        if isinstance(layer, nn.Linear):
            small = "text_embedder" in name or "time_embedder" in name
            rows, columns = layer.weight.shape
            fill(layer.weight, 0.02 if small else (2 / (rows + columns)) ** 0.5)
        elif isinstance(layer, nn.Conv2d | nn.Conv3d):
            last = name == "camera_adapter.residual.2"  # ends a residual branch
            fill(layer.weight, (0.1 if last else 1.0) / layer.weight[0].numel() ** 0.5)
        else:
            continue
        if layer.bias is not None:
            layer.bias.zero_()
    transformer.proj_out.weight.zero_()


def build_networks(
    options: TransformerOptions, device: torch.device | str
) -> tuple[FlowNetworks, ClipEncoder, TextEncoder, ImageEncoder]:
    """All networks of the stage.

    Returns:
        what is trained; what encodes clips; text and image encoder, trained or not.

    Raises:
        InputError: a part is missing, or options contradict each other.
        CheckpointError: sizes or weights cannot be used, or networks do not belong together.
    """
    places = {name: getattr(options, name) or options.checkpoint for name in _FROZEN}
    for name, place in places.items():
        if not place:
            raise InputError(f"transformer: option {name!r} is missing: name the folder of the trained {name}")
    teachers = Teachers.load(
        places["vggt"], places["video_vae"], device, options.frozen_dtype, whole_clip=options.whole_clip
    )
    dtype = parse_dtype(options.frozen_dtype)
    adapter = cast(GeometryAdapter, load_frozen("geometry_adapter", places["geometry_adapter"], device, dtype))
    sizes = chosen_sizes("transformer", options.size, options.config, options.initial)
    module, fresh = trained_component("transformer", sizes, options.initial, device, seed=options.seed)
    transformer = cast(CameraTransformer, module)
    if fresh:
        initialise_transformer(transformer, torch.Generator().manual_seed(options.seed))
    if options.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    text = cast(TextEncoder, _encoder("text_encoder", options, device))
    image = cast(ImageEncoder, _encoder("image_encoder", options, device))
    check_fit(transformer, teachers.video_vae, adapter, teachers.vggt, image, text)
    encoder = ClipEncoder(
        teachers,
        adapter,
        image,
        text,
        _tokenizer(options, text),
        text_len=int(transformer.config.text_len),
        frozen_encoders=not options.train_encoders,
        camera_scale=options.camera_scale,
        clips_at_a_time=options.clips_at_a_time,
    )
    joint = options.train_encoders
    return FlowNetworks(transformer, text if joint else None, image if joint else None), encoder, text, image


def _encoder(name: str, options: TransformerOptions, device: torch.device | str) -> nn.Module:
    config: dict[str, Any] | None = getattr(options, f"{name}_config")
    if options.train_encoders and not getattr(options, name):
        config = chosen_sizes(name, options.size, config, None)
    place: str = getattr(options, name) or (options.checkpoint if config is None else "")
    if not options.train_encoders:
        if not place:
            raise InputError(f"transformer: option {name!r} is missing: name the folder of the trained {name}")
        return load_frozen(name, place, device, parse_dtype(options.frozen_dtype))
    module, _ = trained_component(name, config, place or None, device, seed=options.seed + 1)
    return module


def _tokenizer(options: TransformerOptions, text: TextEncoder) -> Tokenizer:
    if options.captions:
        return train_tokenizer(read_captions(options.captions), text.config.vocab_size)
    beside = Path(options.text_encoder).parent if options.text_encoder else None
    roots = [Path(options.tokenizer)] if options.tokenizer else [beside, Path(options.checkpoint or ".")]
    for root in roots:
        for folder in (root, root / "tokenizer") if root is not None else ():
            if any((folder / name).is_file() for name in _TOKENIZER_FILES):
                return Tokenizer.from_folder(folder)
    raise InputError(
        "transformer: there is no tokenizer; name its folder ('tokenizer'), or a text file of captions to train one "
        "from ('captions')"
    )
