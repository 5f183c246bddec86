"""The model of a run: VGGT alone for windows, and the whole pipeline only where views are generated."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gen3r_core.checkpoint.folder import open_checkpoint
from gen3r_core.checkpoint.loading import load_component
from gen3r_core.checkpoint.packaged import PACKAGED
from gen3r_core.errors import CheckpointError, InputError
from gen3r_core.geometry.poses import Array
from gen3r_core.mapping.predictor import VggtPredictor
from gen3r_core.mapping.windows import Prediction, Predictor
from gen3r_core.offline.keyframes import Sight

if TYPE_CHECKING:
    from gen3r_core.models.vggt import VGGT
    from gen3r_core.pipeline import Gen3RPipeline

__all__ = ["CalibratedPredictor", "LatePredictor", "OfflineModel", "fingerprint"]

RANDOM = "random:"
"""What names of models with random weights begin with, such as ``random:tiny``: for trying things out."""
_PIXEL_CENTRE = 0.5


@dataclass(frozen=True)
class OfflineModel:
    """A checkpoint, opened and looked at; weights are loaded when they are needed.

    Attributes:
        checkpoint: folder; None for the model in this package, ``random:SIZE`` for one with random weights.
        device: where to compute.
        dtype: of the weights of what generates; windows are computed in float32.
    """

    checkpoint: str | None
    device: torch.device
    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        """Which weights: another name is another model."""
        if self._random is not None or self.checkpoint is None:
            return self.checkpoint or PACKAGED
        digest = hashlib.sha256()
        root = Path(self.checkpoint)
        manifest = root / "gen3r.json"
        for path in [manifest] if manifest.is_file() else sorted(root.rglob("*.safetensors")):
            digest.update(f"{path.relative_to(root)} {path.stat().st_size}".encode())
            digest.update(path.read_bytes() if path == manifest else b"")
        return f"{root.resolve().name} {digest.hexdigest()[:16]}"

    def check(self) -> None:
        """Find out now whether there is such a checkpoint.

        Raises:
            CheckpointError: it cannot be used.
            InputError: there are no random models of this size.
        """
        _ = self.sight

    @cached_property
    def sight(self) -> Sight:
        """What it wants to see."""
        if self._random is not None:
            from gen3r_core.sizes import SIZES

            if self._random not in SIZES:
                raise InputError(f"model size {self._random!r} is unknown; choose one of: {', '.join(SIZES)}")
            longest = max(SIZES[self._random].image_size)
            return Sight(longest, int(SIZES[self._random].components["vggt"].get("patch_size", 14)))
        checkpoint = open_checkpoint(self.checkpoint)
        config = checkpoint.component("vggt").config
        own = config.get("image_size") or max(checkpoint.defaults["image_size"])
        return Sight(int(own), int(config.get("patch_size", 14)))

    def predictor(self) -> VggtPredictor:
        """VGGT.

        Raises:
            CheckpointError: something is missing, damaged or does not fit.
            DeviceError: memory runs out.
        """
        return VggtPredictor(self._vggt(), self.name)

    def _vggt(self) -> VGGT:
        from gen3r_core.devices import memory_errors
        from gen3r_core.models.vggt import VGGT

        if self._random is not None:
            from gen3r_core.sizes import named_config, random_component

            generator = torch.Generator(device=self.device).manual_seed(0)
            made = random_component("vggt", named_config(self._random, "vggt"), device=self.device,
                                    dtype=torch.float32, generator=generator)  # fmt: skip
        else:
            files = open_checkpoint(self.checkpoint).component("vggt")
            with memory_errors():
                made = load_component(files, device=self.device, dtype=torch.float32)
        if not isinstance(made, VGGT):
            raise CheckpointError(f"{self.checkpoint}: its vggt is no VGGT but {type(made).__name__}")
        return made

    def pipeline(self) -> Gen3RPipeline:
        """All networks.

        Raises:
            CheckpointError: something is missing, damaged or does not fit.
            DeviceError: memory runs out.
        """
        from gen3r_core.pipeline import Gen3RPipeline

        if self._random is not None:
            from gen3r_core.sizes import random_pipeline

            return random_pipeline(self._random, device=self.device, dtype=self.dtype)
        return Gen3RPipeline.from_pretrained(self.checkpoint, device=self.device, dtype=self.dtype)

    @property
    def _random(self) -> str | None:
        named = self.checkpoint is not None and self.checkpoint.startswith(RANDOM)
        return self.checkpoint.removeprefix(RANDOM) if named and self.checkpoint is not None else None


class LatePredictor:
    """VGGT, loaded when the first window is to be predicted: a resumed run may need none.

    Args:
        model: whose.
    """

    def __init__(self, model: OfflineModel) -> None:
        self._model = model
        self._loaded: Predictor | None = None

    @property
    def name(self) -> str:
        """Of the model."""
        return self._model.name

    def __call__(self, images: Any) -> Any:
        """As :class:`~gen3r_core.mapping.predictor.VggtPredictor` does."""
        if self._loaded is None:
            self._loaded = self._model.predictor()
        return self._loaded(images)


class CalibratedPredictor:
    """A predictor whose intrinsics are replaced by the camera's own, where they are known.

    Args:
        inner: the model.
        intrinsics: ``[3, 3]`` pixels of the prepared images, the first one's *corner* at (0, 0), by
            :func:`fingerprint` of the image.
    """

    def __init__(self, inner: Predictor, intrinsics: dict[bytes, Array]) -> None:
        self._inner, self._intrinsics = inner, intrinsics

    @property
    def name(self) -> str:
        """Which model."""
        return self._inner.name

    def __call__(self, images: NDArray[np.uint8]) -> Prediction:
        """See :class:`~gen3r_core.mapping.windows.Predictor`."""
        found = self._inner(images)
        K = found.intrinsics.copy()
        for place, image in enumerate(images):
            known = self._intrinsics.get(fingerprint(image))
            if known is not None:
                K[place] = known
                K[place, :2, 2] -= _PIXEL_CENTRE
        return replace(found, intrinsics=K)


def fingerprint(image: NDArray[np.uint8]) -> bytes:
    """Tells images apart."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()
