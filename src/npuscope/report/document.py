"""One JSON document from any value that a function returns."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np


def to_document(value: Any) -> Any:
    """Dataclasses, arrays and paths as JSON types; a number that JSON does not know becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_document(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_document(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_document(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return to_document(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def to_json(value: Any, *, ascii_only: bool = False) -> str:
    """The document as text; in ASCII where the stream holds no more."""
    return json.dumps(to_document(value), indent=1, ensure_ascii=ascii_only, allow_nan=False)
