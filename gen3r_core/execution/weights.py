"""Linear layers with 8-bit weights, in the place of a network's own and back.

int8: symmetric with a scale for each output channel, unpacked to the input's type where it is used; half of the memory
of a 16-bit type at the price of unpacking. fp8: float8 e4m3 with a scale for each output channel; on a GPU that
multiplies such numbers the inputs are rounded, too, with a scale for each token, and products take half the time.

torchao has the like as tensor subclasses. These few lines keep the layers plain modules, which can be streamed and
compiled as any other, and put back exactly.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3r_core.errors import InputError

FORMATS = ("native", "int8", "fp8")
FP8 = torch.float8_e4m3fn
FP8_LARGEST = 448.0
"""Largest finite number of e4m3."""

_LEVELS = 127
_SMALLEST = 1e-12
"""Least scale, of rows that are zero."""
_FP8_CAPABILITY = (8, 9)
_FP8_MULTIPLE = 16
"""Both sides of a matrix that such a GPU multiplies are multiples of this."""


def multiplies_fp8(device: torch.device) -> bool:
    """Whether a device multiplies float8 matrices: NVIDIA's from compute capability 8.9 on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FP8_CAPABILITY


class EightBitLinear(nn.Module):
    """A linear layer with 8-bit weights.

    Args:
        linear: the layer to take the weights of; its device is kept.
        kind: "int8" or "fp8".
        scaled_product: multiply in float8 (fp8 only); otherwise weights are unpacked.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, kind: str, *, scaled_product: bool = False) -> None:
        super().__init__()
        weight = linear.weight.data.float()
        largest = weight.abs().amax(dim=1, keepdim=True)
        if kind == "int8":
            scale = (largest / _LEVELS).clamp(min=_SMALLEST)
            numbers = (weight / scale).round_().to(torch.int8)
        else:
            scale = (largest / FP8_LARGEST).clamp(min=_SMALLEST)
            numbers = (weight / scale).to(FP8)
        # Buffers: no gradient, and they follow the module wherever it is put.
        self.register_buffer("weight", numbers)
        self.register_buffer("scale", scale[:, 0].contiguous())
        bias: Tensor | None = linear._parameters["bias"]  # noqa: SLF001 - torch declares the attribute as never None
        self.register_buffer("bias", None if bias is None else bias.data)
        fits = not any(side % _FP8_MULTIPLE for side in linear.weight.shape)
        self.scaled_product = scaled_product and kind == "fp8" and fits

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``, same dtype."""
        if self.scaled_product:
            return self._scaled(x)
        weight = self.weight.to(x.dtype) * self.scale[:, None].to(x.dtype)
        return F.linear(x, weight, self.bias)

    def _scaled(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        largest = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=_SMALLEST)
        scale = largest / FP8_LARGEST
        rounded = (rows.float() / scale).clamp(-FP8_LARGEST, FP8_LARGEST).to(FP8)
        product: Tensor = torch._scaled_mm(  # noqa: SLF001 - torch has no public name for it yet
            rounded, self.weight.t(), scale_a=scale, scale_b=self.scale[None], bias=self.bias, out_dtype=x.dtype
        )
        output: Tensor = product.unflatten(0, x.shape[:-1])
        return output


class EightBitWeights:
    """Puts 8-bit layers in the place of all linear layers inside some modules; :meth:`remove` undoes it exactly.

    Args:
        modules: whose linear layers are replaced.
        kind: "int8" or "fp8".
        scaled_product: see :class:`EightBitLinear`.

    Raises:
        InputError: another kind.
    """

    def __init__(self, modules: Iterable[nn.Module], kind: str, *, scaled_product: bool = False) -> None:
        if kind not in FORMATS[1:]:
            raise InputError(f"8-bit weights are 'int8' or 'fp8', got {kind!r}")
        self._replaced: list[tuple[nn.Module, str, nn.Module]] = []
        for module in modules:
            for owner in list(module.modules()):
                for name, child in list(owner.named_children()):
                    if isinstance(child, nn.Linear):
                        self._replaced.append((owner, name, child))
                        setattr(owner, name, EightBitLinear(child, kind, scaled_product=scaled_product))

    def __len__(self) -> int:
        return len(self._replaced)

    def remove(self) -> None:
        """Put the layers back that were there."""
        while self._replaced:
            owner, name, child = self._replaced.pop()
            setattr(owner, name, child)
