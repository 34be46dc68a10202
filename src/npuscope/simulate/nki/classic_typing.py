"""`neuronxcc.nki.typing`: annotations of kernels. They are read by people; nothing here checks a shape."""

from __future__ import annotations

from typing import Any


class _Annotation:
    """A name that may be subscripted with a shape and carries nothing."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getitem__(self, shape: Any) -> _Annotation:
        return self

    def __call__(self, value: Any = None, *arguments: Any, **options: Any) -> Any:
        """`scalar(tile)` and its like: the value itself."""
        return value

    def __or__(self, other: Any) -> _Annotation:
        return self

    __ror__ = __or__

    def __repr__(self) -> str:
        return f"nki.typing.{self.__name__}"


tensor = _Annotation("tensor")
mutable_tensor = _Annotation("mutable_tensor")
"""An argument that the kernel may write to; the simulator lets every HBM argument be written."""
mutable = _Annotation("mutable")
scalar = _Annotation("scalar")

__all__ = ["mutable_tensor", "scalar", "tensor"]
