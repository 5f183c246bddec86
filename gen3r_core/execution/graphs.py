"""Functions compiled by torch, each kind of arguments by itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import FunctionType, MethodType
from typing import Any

import torch
import torch._dynamo
from torch import Tensor


def compiled_alone(
    function: Callable[..., Any], backend: str | Callable[..., Any], options: dict[str, Any] | None = None
) -> Callable[..., Any]:
    """A function compiled without graph breaks, whose graphs count for nobody else.

    torch limits the graphs of one function's code, over all that share it; a copy has code of its own.

    Args:
        function: plain, or a bound method.
        backend: torch's name of a compiler, or the compiler.
        options: of the compiler.
    """
    plain: Any = function.__func__ if isinstance(function, MethodType) else function
    copy: Any = FunctionType(
        plain.__code__.replace(), plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__
    )
    copy.__kwdefaults__ = plain.__kwdefaults__
    if isinstance(function, MethodType):
        copy = MethodType(copy, function.__self__)
    compiled: Callable[..., Any] = torch.compile(copy, fullgraph=True, dynamic=False, backend=backend, options=options)
    return compiled


class RowFunctions:
    """Compiles functions of tensors whose last dimension is channels, the others any number of places.

    There is one graph for each number of channels and each choice of options, whatever the number of places: other
    frames and sizes find it there.

    Args:
        backend: torch's name of a compiler, or the compiler.
    """

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        self._backend = backend
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    def __call__(self, function: Callable[..., Any], *tensors: Tensor | None, **options: bool) -> Any:
        """Call a function, compiled.

        Args:
            function: takes tensors by position (None for those left out) and booleans by name.
            tensors: channels last; vectors are channels only.
            options: the booleans.
        """
        widths = tuple(None if tensor is None else tensor.shape[-1] for tensor in tensors)
        key = (function, widths, *options.items())
        if key not in self._compiled:
            self._compiled[key] = compiled_alone(function, self._backend)
        for tensor in tensors:
            if tensor is not None and tensor.ndim > 1:
                torch._dynamo.maybe_mark_dynamic(tensor, list(range(tensor.ndim - 1)))  # noqa: SLF001
        return self._compiled[key](*tensors, **options)
