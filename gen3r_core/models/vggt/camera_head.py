"""The camera head of VGGT: pose encodings from camera tokens, refined step by step.

arXiv 2503.11651, "camera predictions". Each step conditions the camera tokens on the estimate so
far by an adaptive layer norm (arXiv 2212.09748) and predicts a correction of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3r_core.models.vggt.blocks import MLP, Block
from gen3r_core.models.vggt.config import CameraHeadConfig

# Translation (3), quaternion xyzw (4), vertical and horizontal field of view (2).
POSE_CHANNELS = 9
_FIELD_OF_VIEW = 7  # first channel of the fields of view


class CameraHead(nn.Module):
    """Predict the camera of each frame from its camera token.

    Args:
        dim: channels of a token.
        config: sizes of the head.
    """

    def __init__(self, dim: int, config: CameraHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_CHANNELS))
        self.trunk = nn.Sequential(
            *(Block(dim, config.num_heads, config.mlp_ratio, layer_scale=0.01) for _ in range(config.trunk_depth))
        )
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.embed_pose = nn.Linear(POSE_CHANNELS, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.pose_branch = MLP(dim, dim // 2, POSE_CHANNELS)

    def forward(self, tokens: Tensor, num_iterations: int | None = None) -> tuple[Tensor, ...]:
        """Predict pose encodings.

        Args:
            tokens: ``[B, S, N, dim]`` tokens of the last kept block; only token 0 of each frame,
                the camera token, is read. Cast to the dtype of the head's weights.
            num_iterations: refinements; ``config.num_iterations`` where left out.

        Returns:
            One ``[B, S, 9]`` float32 per refinement, the last being the prediction: translation
            (scene units) and quaternion xyzw (not normalised) of the world-to-camera pose in
            OpenCV axes, then vertical and horizontal field of view in radians, not negative.
            The estimate is summed in float32. No gradient flows from one step into the one
            before it.
        """
        weights = self.embed_pose.weight
        cameras = self.token_norm(tokens[:, :, 0].to(weights.dtype))
        plain = F.layer_norm(cameras, cameras.shape[-1:], eps=1e-6)
        conditioning = self.empty_pose_tokens.expand(*cameras.shape[:2], -1)
        estimate = torch.zeros(*cameras.shape[:2], POSE_CHANNELS, device=cameras.device)
        steps = []
        for _ in range(self.config.num_iterations if num_iterations is None else num_iterations):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(conditioning)).chunk(3, dim=-1)
            features = self.trunk(cameras + gate * (plain * (1 + scale) + shift))
            estimate = estimate.detach() + self.pose_branch(self.trunk_norm(features)).float()
            conditioning = estimate.detach().to(weights.dtype)
            steps.append(torch.cat([estimate[..., :_FIELD_OF_VIEW], F.relu(estimate[..., _FIELD_OF_VIEW:])], dim=-1))
        return tuple(steps)
