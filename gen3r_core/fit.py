"""Whether networks belong together: the widths at which they meet."""

from __future__ import annotations

from diffusers import AutoencoderKLWan

from gen3r_core.errors import CheckpointError
from gen3r_core.models.geometry_adapter import GeometryAdapter
from gen3r_core.models.image_encoder import ImageEncoder
from gen3r_core.models.text_encoder import TextEncoder
from gen3r_core.models.transformer import CameraTransformer
from gen3r_core.models.vggt import VGGT


def check_fit(
    transformer: CameraTransformer,
    video_vae: AutoencoderKLWan,
    geometry_adapter: GeometryAdapter,
    vggt: VGGT,
    image_encoder: ImageEncoder,
    text_encoder: TextEncoder | None,
) -> None:
    """Compare the configurations of networks that shall work together.

    Raises:
        CheckpointError: naming every width on which two of them differ.
    """
    own, adapter = transformer.config, geometry_adapter.config
    latent = int(video_vae.config.z_dim)
    tokens = (len(vggt.config.layers) + 1) * 2 * vggt.config.embed_dim
    # Noisy latents, control latents, and a mask for four folded frames.
    input_channels = 2 * latent + 4
    facts = {
        "latent channels of transformer and video VAE": (own.out_channels, latent),
        "latent channels of geometry adapter and video VAE": (adapter.latent_channels, latent),
        "input channels of the transformer (latents, control latents, mask)": (own.in_channels, input_channels),
        "image tokens of transformer and image encoder": (own.image_dim, image_encoder.config.hidden_size),
        "tokens of geometry adapter and VGGT": (adapter.token_channels, tokens),
    }
    if text_encoder is not None:
        facts["text of transformer and text encoder"] = (own.text_dim, text_encoder.config.hidden_size)
    wrong = [f"{what}: {a} and {b}" for what, (a, b) in facts.items() if a != b]
    if wrong:
        raise CheckpointError(
            f"the components do not belong together ({'; '.join(wrong)}). Take all of them from one checkpoint"
        )
