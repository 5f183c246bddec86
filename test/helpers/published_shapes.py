"""Keys and shapes of the published weight files, generated from their sizes.

Independent of ``gen3r_core.checkpoint``: the names are facts of the published modules, checked against
the full-size manifests by ``test/parity/test_published_shapes_parity.py``. Every function takes a
configuration in the published style; what it leaves out has the full model's size. Keys that no
published config.json states (``image_dim``, ``dim`` of the VAE, ``vision_dim`` and so on) are the
constructor arguments of the inner networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shapes = dict[str, tuple[int, ...]]


def _affine(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _layer(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": (shape[0],)}


def transformer_shapes(config: Mapping[str, Any]) -> Shapes:
    """Wan2.1-Fun Control-Camera, image-to-video."""
    dim, ffn = config.get("dim", 1536), config.get("ffn_dim", 8960)
    image, text = config.get("image_dim", 1280), config.get("text_dim", 4096)
    patch = tuple(config.get("patch_size", (1, 2, 2)))
    shapes = _layer("patch_embedding", dim, config.get("in_dim", 36), *patch)
    shapes |= _layer("text_embedding.0", dim, text) | _layer("text_embedding.2", dim, dim)
    shapes |= _layer("time_embedding.0", dim, config.get("freq_dim", 256)) | _layer("time_embedding.2", dim, dim)
    shapes |= _layer("time_projection.1", 6 * dim, dim)
    for index in range(config.get("num_layers", 30)):
        block = f"blocks.{index}"
        shapes[f"{block}.modulation"] = (1, 6, dim)
        for kind, projections in (("self_attn", "q k v o"), ("cross_attn", "q k v o k_img v_img")):
            for name in projections.split():
                shapes |= _layer(f"{block}.{kind}.{name}", dim, dim)
            norms = ["norm_q", "norm_k"] + ["norm_k_img"] * (kind == "cross_attn")
            shapes |= {f"{block}.{kind}.{name}.weight": (dim,) for name in norms}
        shapes |= _affine(f"{block}.norm3", dim)
        shapes |= _layer(f"{block}.ffn.0", ffn, dim) | _layer(f"{block}.ffn.2", dim, ffn)
    shapes |= {"head.modulation": (1, 2, dim)}
    shapes |= _layer("head.head", config.get("out_dim", 16) * patch[0] * patch[1] * patch[2], dim)
    shapes |= _affine("img_emb.proj.0", image) | _layer("img_emb.proj.1", image, image)
    shapes |= _layer("img_emb.proj.3", dim, image) | _affine("img_emb.proj.4", dim)
    if config.get("add_control_adapter", True):
        folded = config.get("in_dim_control_adapter", 24) * 8 * 8
        shapes |= _layer("control_adapter.conv", dim, folded, *patch[1:])
        for name in ("conv1", "conv2"):
            shapes |= _layer(f"control_adapter.residual_blocks.0.{name}", dim, dim, 3, 3)
    return shapes


def _residual(name: str, wide_in: int, wide_out: int) -> Shapes:
    shapes: Shapes = {f"{name}.residual.0.gamma": (wide_in, 1, 1, 1)}
    shapes |= _layer(f"{name}.residual.2", wide_out, wide_in, 3, 3, 3)
    shapes[f"{name}.residual.3.gamma"] = (wide_out, 1, 1, 1)
    shapes |= _layer(f"{name}.residual.6", wide_out, wide_out, 3, 3, 3)
    if wide_in != wide_out:
        shapes |= _layer(f"{name}.shortcut", wide_out, wide_in, 1, 1, 1)
    return shapes


def _middle(name: str, width: int) -> Shapes:
    shapes = _residual(f"{name}.0", width, width) | {f"{name}.1.norm.gamma": (width, 1, 1)}
    shapes |= _layer(f"{name}.1.to_qkv", 3 * width, width, 1, 1) | _layer(f"{name}.1.proj", width, width, 1, 1)
    return shapes | _residual(f"{name}.2", width, width)


def _coder(
    name: str, widths: tuple[int, ...], ends: tuple[int, int], temporal: tuple[bool, ...], resample: str
) -> Shapes:
    """One half of a video autoencoder: ``ends`` are its input and output channels."""
    encodes = name.endswith("encoder")
    levels = "downsamples" if encodes else "upsamples"
    shapes = _layer(f"{name}.conv1", widths[0], ends[0], 3, 3, 3)
    middle = _middle(f"{name}.middle", widths[-1] if encodes else widths[0])
    body: Shapes = {}
    index, entering = 0, widths[0]
    for level, width in enumerate(widths[1:]):
        for _ in range(2 if encodes else 3):
            body |= _residual(f"{name}.{levels}.{index}", entering, width)
            entering = width
            index += 1
        if level < len(temporal):
            between = f"{name}.{levels}.{index}"
            entering = width if encodes else width // 2
            body |= _layer(f"{between}.{resample}", entering, width, 3, 3)
            if temporal[level]:
                body |= _layer(f"{between}.time_conv", width if encodes else 2 * width, width, 3, 1, 1)
            index += 1
    shapes |= body | middle if encodes else middle | body
    shapes |= {f"{name}.head.0.gamma": (widths[-1], 1, 1, 1)}
    return shapes | _layer(f"{name}.head.2", ends[1], widths[-1], 3, 3, 3)


def wan_vae_shapes(config: Mapping[str, Any], prefix: str = "model.") -> Shapes:
    """Wan2.1's video VAE; the original single file has no prefix."""
    dim, latent = config.get("dim", 96), config.get("latent_channels", 16)
    widths = tuple(dim * times for times in (1, 1, 2, 4, 4))
    encoder = _coder("encoder", widths, (3, 2 * latent), (False, True, True), "resample.1")
    decoder = _coder("decoder", (widths[-1], *widths[:0:-1]), (latent, 3), (True, True, False), "resample.1")
    around = _layer("conv1", 2 * latent, 2 * latent, 1, 1, 1) | _layer("conv2", latent, latent, 1, 1, 1)
    return {prefix + key: shape for key, shape in (encoder | around | decoder).items()}


def geo_adapter_shapes(config: Mapping[str, Any], prefix: str = "model.") -> Shapes:
    """The geometry adapter; a file of its training may have bare keys."""
    hidden, latent = config.get("hidden_dim", 128), config.get("latent_channels", 16)
    tokens = config.get("input_dim", 10240)
    narrow = tokens // config.get("resample_scale", 10)
    widths = tuple(hidden * times for times in (4, 4, 2, 1, 1))
    shapes = _layer("encoder.init_block.resample.1", narrow, tokens, 3, 3)
    shapes |= _coder("encoder", widths, (narrow, 2 * latent), (False, True, True), "resample.0")
    shapes |= _layer("conv1", 2 * latent, 2 * latent, 1, 1, 1) | _layer("conv2", latent, latent, 1, 1, 1)
    shapes |= _coder("decoder", (widths[-1], *widths[:0:-1]), (latent, narrow), (True, True, False), "resample.0")
    shapes |= _layer("decoder.out_block.resample.2", tokens, narrow, 3, 3)
    return {prefix + key: shape for key, shape in shapes.items()}


def _vision_block(name: str, width: int, *, ratio: float = 4.0, head_dim: int | None = None) -> Shapes:
    shapes = _affine(f"{name}.norm1", width) | _layer(f"{name}.attn.qkv", 3 * width, width)
    if head_dim is not None:
        shapes |= _affine(f"{name}.attn.q_norm", head_dim) | _affine(f"{name}.attn.k_norm", head_dim)
    shapes |= _layer(f"{name}.attn.proj", width, width) | {f"{name}.ls1.gamma": (width,)}
    hidden = int(width * ratio)
    shapes |= _affine(f"{name}.norm2", width) | _layer(f"{name}.mlp.fc1", hidden, width)
    return shapes | _layer(f"{name}.mlp.fc2", width, hidden) | {f"{name}.ls2.gamma": (width,)}


def _dense_head(name: str, width: int, outputs: int, config: Mapping[str, Any]) -> Shapes:
    features, out = config.get("features", 256), tuple(config.get("out_channels", (256, 512, 1024, 1024)))
    shapes = _affine(f"{name}.norm", width)
    for index, channels in enumerate(out):
        shapes |= _layer(f"{name}.projects.{index}", channels, width, 1, 1)
    for index, side in ((0, 4), (1, 2), (3, 3)):
        shapes |= _layer(f"{name}.resize_layers.{index}", out[index], out[index], side, side)
    scratch = f"{name}.scratch"
    for index, channels in enumerate(out, start=1):
        shapes[f"{scratch}.layer{index}_rn.weight"] = (features, channels, 3, 3)
        fusion = f"{scratch}.refinenet{index}"
        shapes |= _layer(f"{fusion}.out_conv", features, features, 1, 1)
        for unit in (1, 2) if index < 4 else (2,):
            for conv in ("conv1", "conv2"):
                shapes |= _layer(f"{fusion}.resConfUnit{unit}.{conv}", features, features, 3, 3)
    shapes |= _layer(f"{scratch}.output_conv1", features // 2, features, 3, 3)
    shapes |= _layer(f"{scratch}.output_conv2.0", 32, features // 2, 3, 3)
    return shapes | _layer(f"{scratch}.output_conv2.2", outputs, 32, 1, 1)


def vggt_shapes(config: Mapping[str, Any]) -> Shapes:
    """VGGT without its track head."""
    top = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    outer: dict[str, Any] = {**top, **config.get("aggregator", {})}
    inner: dict[str, Any] = {**{k: v for k, v in outer.items() if k in ("img_size", "patch_size", "embed_dim")}}
    inner |= config.get("patch_embed", {})
    camera = config.get("camera_head", {})
    width, patch = outer.get("embed_dim", 1024), inner.get("patch_size", 14)
    grid = inner.get("img_size", 518) // patch
    shapes: Shapes = {
        "aggregator.camera_token": (1, 2, 1, width),
        "aggregator.register_token": (1, 2, outer.get("num_register_tokens", 4), width),
        "aggregator.patch_embed.cls_token": (1, 1, width),
        "aggregator.patch_embed.pos_embed": (1, 1 + grid * grid, width),
        "aggregator.patch_embed.register_tokens": (1, inner.get("num_register_tokens", 4), width),
        "aggregator.patch_embed.mask_token": (1, width),
    }
    shapes |= _layer("aggregator.patch_embed.patch_embed.proj", width, 3, patch, patch)
    for index in range(inner.get("depth", 24)):
        shapes |= _vision_block(f"aggregator.patch_embed.blocks.{index}", width)
    shapes |= _affine("aggregator.patch_embed.norm", width)
    for kind in ("frame_blocks", "global_blocks"):
        for index in range(outer.get("depth", 24)):
            head_dim = width // outer.get("num_heads", 16)
            shapes |= _vision_block(f"aggregator.{kind}.{index}", width, head_dim=head_dim)
    shapes["camera_head.empty_pose_tokens"] = (1, 1, 9)
    for index in range(camera.get("trunk_depth", 4)):
        shapes |= _vision_block(f"camera_head.trunk.{index}", 2 * width)
    shapes |= _affine("camera_head.token_norm", 2 * width) | _affine("camera_head.trunk_norm", 2 * width)
    shapes |= _layer("camera_head.embed_pose", 2 * width, 9)
    shapes |= _layer("camera_head.poseLN_modulation.1", 6 * width, 2 * width)
    shapes |= _layer("camera_head.pose_branch.fc1", width, 2 * width) | _layer("camera_head.pose_branch.fc2", 9, width)
    heads = config.get("dpt_head", {})
    return shapes | _dense_head("point_head", 2 * width, 4, heads) | _dense_head("depth_head", 2 * width, 2, heads)


def text_encoder_shapes(config: Mapping[str, Any]) -> Shapes:
    """Wan's UMT5 encoder."""
    dim, inner, ffn = config.get("dim", 4096), config.get("dim_attn", 4096), config.get("dim_ffn", 10240)
    positions = (config.get("num_buckets", 32), config.get("num_heads", 64))
    shared = config.get("shared_pos", False)
    shapes: Shapes = {"token_embedding.weight": (config.get("vocab", 256384), dim)}
    if shared:
        shapes["pos_embedding.embedding.weight"] = positions
    for index in range(config.get("num_layers", 24)):
        block = f"blocks.{index}"
        shapes |= {f"{block}.norm1.weight": (dim,), f"{block}.norm2.weight": (dim,)}
        shapes |= {f"{block}.attn.{name}.weight": (inner, dim) for name in "qkv"}
        shapes[f"{block}.attn.o.weight"] = (dim, inner)
        shapes |= {f"{block}.ffn.gate.0.weight": (ffn, dim), f"{block}.ffn.fc1.weight": (ffn, dim)}
        shapes[f"{block}.ffn.fc2.weight"] = (dim, ffn)
        if not shared:
            shapes[f"{block}.pos_embedding.embedding.weight"] = positions
    return shapes | {"norm.weight": (dim,)}


def clip_shapes(config: Mapping[str, Any], prefix: str = "model.") -> Shapes:
    """OpenCLIP with XLM-RoBERTa, both towers; the original single file has no prefix."""
    width, joint = config.get("vision_dim", 1280), config.get("embed_dim", 1024)
    patch, text = config.get("patch_size", 14), config.get("text_dim", 1024)
    hidden = int(width * config.get("vision_mlp_ratio", 4))
    tokens = 1 + (config.get("image_size", 224) // patch) ** 2
    shapes: Shapes = {
        "log_scale": (),
        "visual.cls_embedding": (1, 1, width),
        "visual.pos_embedding": (1, tokens, width),
        "visual.head": (width, joint),
        "visual.patch_embedding.weight": (width, 3, patch, patch),
    }
    shapes |= _affine("visual.pre_norm", width) | _affine("visual.post_norm", width)
    for index in range(config.get("vision_layers", 32)):
        block = f"visual.transformer.{index}"
        shapes |= _affine(f"{block}.norm1", width) | _affine(f"{block}.norm2", width)
        shapes |= _layer(f"{block}.attn.to_qkv", 3 * width, width) | _layer(f"{block}.attn.proj", width, width)
        shapes |= _layer(f"{block}.mlp.0", hidden, width) | _layer(f"{block}.mlp.2", width, hidden)
    shapes |= {
        "textual.token_embedding.weight": (config.get("vocab_size", 250002), text),
        "textual.type_embedding.weight": (1, text),
        "textual.pos_embedding.weight": (config.get("max_text_len", 514), text),
        "textual.head.0.weight": ((text + joint) // 2, text),
        "textual.head.2.weight": (joint, (text + joint) // 2),
    }
    for index in range(config.get("text_layers", 24)):
        block = f"textual.blocks.{index}"
        shapes |= _affine(f"{block}.norm1", text) | _affine(f"{block}.norm2", text)
        for name in "qkvo":
            shapes |= _layer(f"{block}.attn.{name}", text, text)
        shapes |= _layer(f"{block}.ffn.0", 4 * text, text) | _layer(f"{block}.ffn.2", text, 4 * text)
    shapes |= _affine("textual.norm", text)
    return {prefix + key: shape for key, shape in shapes.items()}
