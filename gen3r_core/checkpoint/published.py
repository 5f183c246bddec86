"""Keys of the published checkpoint (and of the parts that upstream's trainers load), as rules.

Key names are facts of the published files, taken from the manifests of the full-size modules.
"""

from __future__ import annotations

import re

from gen3r_core.checkpoint.keymap import Ignored, KeyMap, Rule, drop_front, pad_input_channels, part

_ATTENTION = {"self_attn": "attn1", "cross_attn": "attn2"}
_PROJECTION = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "k_img": "add_k_proj",
    "v_img": "add_v_proj",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
    "norm_k_img": "norm_added_k",
}


def _attention_key(match: re.Match[str]) -> str:
    block, kind, projection, leaf = match.groups()
    return f"blocks.{block}.{_ATTENTION[kind]}.{_PROJECTION[projection]}.{leaf}"


def transformer_keys(extra_input_channels: int = 0) -> KeyMap:
    """Wan2.1-Fun Control-Camera names to diffusers' names.

    Args:
        extra_input_channels: zero channels to append to the patch embedding (a Wan base has 32
            input channels; Gen3R's 36 are those and four for the mask, initially zero).
    """
    patch: tuple[str | tuple[str, object], ...] = ("patch_embedding.weight",)
    if extra_input_channels:
        patch = (("patch_embedding.weight", pad_input_channels(extra_input_channels)),)
    condition = "condition_embedder"
    return KeyMap(
        (
            Rule(r"patch_embedding\.weight", patch),  # type: ignore[arg-type]
            Rule(r"patch_embedding\.bias", ("patch_embedding.bias",)),
            Rule(r"text_embedding\.0\.(\w+)", (rf"{condition}.text_embedder.linear_1.\1",)),
            Rule(r"text_embedding\.2\.(\w+)", (rf"{condition}.text_embedder.linear_2.\1",)),
            Rule(r"time_embedding\.0\.(\w+)", (rf"{condition}.time_embedder.linear_1.\1",)),
            Rule(r"time_embedding\.2\.(\w+)", (rf"{condition}.time_embedder.linear_2.\1",)),
            Rule(r"time_projection\.1\.(\w+)", (rf"{condition}.time_proj.\1",)),
            Rule(r"img_emb\.proj\.0\.(\w+)", (rf"{condition}.image_embedder.norm1.\1",)),
            Rule(r"img_emb\.proj\.1\.(\w+)", (rf"{condition}.image_embedder.ff.net.0.proj.\1",)),
            Rule(r"img_emb\.proj\.3\.(\w+)", (rf"{condition}.image_embedder.ff.net.2.\1",)),
            Rule(r"img_emb\.proj\.4\.(\w+)", (rf"{condition}.image_embedder.norm2.\1",)),
            Rule(
                r"blocks\.(\d+)\.(self_attn|cross_attn)\.(q|k|v|o|k_img|v_img|norm_q|norm_k|norm_k_img)\.(\w+)",
                rename=_attention_key,
            ),
            Rule(r"blocks\.(\d+)\.norm3\.(\w+)", (r"blocks.\1.norm2.\2",)),
            Rule(r"blocks\.(\d+)\.ffn\.0\.(\w+)", (r"blocks.\1.ffn.net.0.proj.\2",)),
            Rule(r"blocks\.(\d+)\.ffn\.2\.(\w+)", (r"blocks.\1.ffn.net.2.\2",)),
            Rule(r"blocks\.(\d+)\.modulation", (r"blocks.\1.scale_shift_table",)),
            Rule(r"head\.head\.(\w+)", (r"proj_out.\1",)),
            Rule(r"head\.modulation", ("scale_shift_table",)),
            Rule(r"control_adapter\.conv\.(\w+)", (r"camera_adapter.project.\1",)),
            Rule(r"control_adapter\.residual_blocks\.0\.conv1\.(\w+)", (r"camera_adapter.residual.0.\1",)),
            Rule(r"control_adapter\.residual_blocks\.0\.conv2\.(\w+)", (r"camera_adapter.residual.2.\1",)),
        )
    )


_RESIDUAL = {
    "residual.0.gamma": "norm1.gamma",
    "residual.2.weight": "conv1.weight",
    "residual.2.bias": "conv1.bias",
    "residual.3.gamma": "norm2.gamma",
    "residual.6.weight": "conv2.weight",
    "residual.6.bias": "conv2.bias",
    "shortcut.weight": "conv_shortcut.weight",
    "shortcut.bias": "conv_shortcut.bias",
}

_AROUND_LEVELS = (
    Rule(r"conv1\.(\w+)", (r"quant_conv.\1",)),
    Rule(r"conv2\.(\w+)", (r"post_quant_conv.\1",)),
    Rule(r"(encoder|decoder)\.conv1\.(\w+)", (r"\1.conv_in.\2",)),
    Rule(r"(encoder|decoder)\.head\.0\.gamma", (r"\1.norm_out.gamma",)),
    Rule(r"(encoder|decoder)\.head\.2\.(\w+)", (r"\1.conv_out.\2",)),
    Rule(r"(encoder|decoder)\.middle\.1\.([\w.]+)", (r"\1.mid_block.attentions.0.\2",)),
)


def _middle(match: re.Match[str]) -> str | None:
    side, index, inner = match.groups()
    renamed = _RESIDUAL.get(inner)
    return None if renamed is None else f"{side}.mid_block.resnets.{int(index) // 2}.{renamed}"


_MIDDLE = Rule(r"(encoder|decoder)\.middle\.([02])\.([\w.]+)", rename=_middle)


def video_vae_keys(num_res_blocks: int = 2) -> KeyMap:
    """Wan2.1 VAE names to diffusers' names; the ``model.`` prefix is optional.

    Args:
        num_res_blocks: residual blocks a level, which groups the decoder's flat list.
    """

    def down(match: re.Match[str]) -> str | None:
        index, inner = match.groups()
        inner = _RESIDUAL.get(inner, inner)
        return f"encoder.down_blocks.{index}.{inner}"

    def up(match: re.Match[str]) -> str | None:
        index, inner = int(match[1]), match[2]
        level, place = divmod(index, num_res_blocks + 2)
        if place == num_res_blocks + 1:
            return f"decoder.up_blocks.{level}.upsamplers.0.{inner}"
        renamed = _RESIDUAL.get(inner)
        return None if renamed is None else f"decoder.up_blocks.{level}.resnets.{place}.{renamed}"

    levels = (
        Rule(r"encoder\.downsamples\.(\d+)\.([\w.]+)", rename=down),
        Rule(r"decoder\.upsamples\.(\d+)\.([\w.]+)", rename=up),
    )
    return KeyMap((*_AROUND_LEVELS, _MIDDLE, *levels), strip="model.")


def geometry_adapter_keys() -> KeyMap:
    """Names of the published geometry adapter; the ``model.`` prefix is optional."""

    def level(match: re.Match[str]) -> str:
        side, index, inner = match.groups()
        inner = _RESIDUAL.get(inner, inner.replace("resample.0.", "conv."))
        return f"{side}.levels.{index}.{inner}"

    constants = Ignored("latent mean and std are constants of the published code; the stored copies are not used there")
    return KeyMap(
        (
            Rule(r"mean|std", constants),
            *_AROUND_LEVELS,
            _MIDDLE,
            Rule(r"encoder\.init_block\.resample\.1\.(\w+)", (r"encoder.reduce.\1",)),
            Rule(r"decoder\.out_block\.resample\.2\.(\w+)", (r"decoder.expand.\1",)),
            Rule(r"(encoder)\.downsamples\.(\d+)\.([\w.]+)", rename=level),
            Rule(r"(decoder)\.upsamples\.(\d+)\.([\w.]+)", rename=level),
        ),
        strip="model.",
    )


def vggt_keys() -> KeyMap:
    """VGGT-1B's names, which are ours too; its track head has no use in Gen3R."""
    return KeyMap(
        (
            Rule(r"track_head\..+", Ignored("point tracking is not part of Gen3R; upstream drops the head too")),
            Rule(r"(.+)", (r"\1",)),
        )
    )


def text_encoder_keys(num_layers: int, *, shared_positions: bool = False) -> KeyMap:
    """Wan's UMT5 names to transformers' names (``TextEncoder.model``).

    Args:
        num_layers: blocks, needed where all share one position table.
        shared_positions: the file holds one position table for all blocks (tied).
    """
    block = r"model.encoder.block.\1.layer"
    rules = [
        Rule(r"token_embedding\.weight", ("model.shared.weight", "model.encoder.embed_tokens.weight")),
        Rule(r"norm\.weight", ("model.encoder.final_layer_norm.weight",)),
        Rule(r"blocks\.(\d+)\.norm1\.weight", (rf"{block}.0.layer_norm.weight",)),
        Rule(r"blocks\.(\d+)\.norm2\.weight", (rf"{block}.1.layer_norm.weight",)),
        Rule(r"blocks\.(\d+)\.attn\.(q|k|v|o)\.weight", (rf"{block}.0.SelfAttention.\2.weight",)),
        Rule(r"blocks\.(\d+)\.ffn\.gate\.0\.weight", (rf"{block}.1.DenseReluDense.wi_0.weight",)),
        Rule(r"blocks\.(\d+)\.ffn\.fc1\.weight", (rf"{block}.1.DenseReluDense.wi_1.weight",)),
        Rule(r"blocks\.(\d+)\.ffn\.fc2\.weight", (rf"{block}.1.DenseReluDense.wo.weight",)),
    ]
    bias = "layer.0.SelfAttention.relative_attention_bias.weight"
    if shared_positions:
        tied = [f"model.encoder.block.{index}.{bias}" for index in range(num_layers)]
        rules.append(Rule(r"pos_embedding\.embedding\.weight", tied))
    else:
        rules.append(Rule(r"blocks\.(\d+)\.pos_embedding\.embedding\.weight", (rf"model.encoder.block.\1.{bias}",)))
    return KeyMap(rules)


def image_encoder_keys(num_layers: int) -> KeyMap:
    """OpenCLIP (XLM-RoBERTa, ViT-H) names to transformers' names; the ``model.`` prefix is optional.

    Args:
        num_layers: blocks that are run; the file has one more, which is not.
    """
    block = r"tower.encoder.layers.\1"
    qkv = [
        Rule(
            rf"visual\.transformer\.(\d+)\.attn\.to_qkv\.{leaf}",
            [(rf"{block}.self_attn.{name}_proj.{leaf}", part(index, 3)) for index, name in enumerate("qkv")],
        )
        for leaf in ("weight", "bias")
    ]
    return KeyMap(
        (
            Rule(r"textual\..+", Ignored("CLIP's text tower: Gen3R's text goes through UMT5")),
            Rule(r"log_scale", Ignored("CLIP's contrastive temperature: only used when image and text are compared")),
            Rule(rf"visual\.transformer\.{num_layers}\..+", Ignored("CLIP's last visual block is never run by Gen3R")),
            Rule(r"visual\.post_norm\..+", Ignored("norm after the last visual block, which is never run")),
            Rule(r"visual\.head(\..+)?", Ignored("projection into CLIP's joint space, which Gen3R does not use")),
            Rule(r"visual\.cls_embedding", [("tower.embeddings.class_embedding", drop_front(2))]),
            Rule(r"visual\.pos_embedding", [("tower.embeddings.position_embedding.weight", drop_front(1))]),
            Rule(r"visual\.patch_embedding\.weight", ("tower.embeddings.patch_embedding.weight",)),
            Rule(r"visual\.pre_norm\.(\w+)", (r"tower.pre_layrnorm.\1",)),
            *qkv,
            Rule(r"visual\.transformer\.(\d+)\.attn\.proj\.(\w+)", (rf"{block}.self_attn.out_proj.\2",)),
            Rule(r"visual\.transformer\.(\d+)\.norm([12])\.(\w+)", (rf"{block}.layer_norm\2.\3",)),
            Rule(r"visual\.transformer\.(\d+)\.mlp\.0\.(\w+)", (rf"{block}.mlp.fc1.\2",)),
            Rule(r"visual\.transformer\.(\d+)\.mlp\.2\.(\w+)", (rf"{block}.mlp.fc2.\2",)),
        ),
        strip="model.",
    )


def own_text_encoder_keys() -> KeyMap:
    """Our own layout stores UMT5's embedding table once; it serves under two names."""
    return KeyMap(
        (
            Rule(r"model\.shared\.weight", ("model.shared.weight", "model.encoder.embed_tokens.weight")),
            Rule(r"(.+)", (r"\1",)),
        )
    )
