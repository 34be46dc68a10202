"""The matmuls of a transformer layer, named, from the model's dimensions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from npuscope._toml import tomllib
from npuscope.errors import UsageError, shorten, unknown_name
from npuscope.workloads.matmul import MatmulConfig


@dataclass(frozen=True, slots=True)
class ModelDims:
    """Dimensions of one transformer layer."""

    hidden: int
    ffn: int
    """Width of the feed-forward block."""
    heads: int
    kv_heads: int
    head_dim: int
    gated: bool = True
    """The feed-forward block has a gate beside its up projection."""


_MAX_DIGITS = 10


@cache
def model_presets() -> dict[str, ModelDims]:
    """Dimensions of well-known public models, by name."""
    document = tomllib.loads(files("npuscope.workloads").joinpath("models.toml").read_text(encoding="utf-8"))
    return {
        name: ModelDims(**{key: value for key, value in entry.items() if key != "source"})
        for name, entry in document["models"].items()
    }


def model_dims(name: str) -> ModelDims:
    """A preset.

    Raises:
        UsageError: No such model.
    """
    presets = model_presets()
    if name not in presets:
        raise unknown_name("model", name, presets)
    return presets[name]


def parse_model_dims(text: str) -> ModelDims:
    """`hidden=4096,ffn=14336,heads=32,kv_heads=8,head_dim=128`; what is left out follows from the rest.

    heads defaults to hidden / 128, kv_heads to heads, head_dim to hidden / heads, ffn to 4 x hidden, gated to 1.

    Raises:
        UsageError: Not of that form, an unknown key, no hidden, or heads that do not divide.
    """
    keys = ("hidden", "ffn", "heads", "kv_heads", "head_dim", "gated")
    values: dict[str, int] = {}
    for part in text.split(","):
        key, _, number = part.partition("=")
        if key.strip() not in keys:
            raise unknown_name("model dimension", key.strip(), keys)
        if not number.strip().isascii() or not number.strip().isdigit() or len(number.strip()) > _MAX_DIGITS:
            raise UsageError(f"--model-dims {shorten(part)!r}: write {key.strip()}=NUMBER")
        values[key.strip()] = int(number)
    if not values.get("hidden"):
        raise UsageError("--model-dims needs hidden=NUMBER, for example hidden=4096,ffn=14336,heads=32,kv_heads=8")
    hidden = values["hidden"]
    heads = values.get("heads", max(1, hidden // 128))
    if "heads" in values and "head_dim" not in values and heads and hidden % heads:
        raise UsageError(
            f"--model-dims {shorten(text)!r}: heads={heads} does not divide hidden={hidden}; give head_dim"
        )
    dims = ModelDims(
        hidden=hidden,
        ffn=values.get("ffn", 4 * hidden),
        heads=heads,
        kv_heads=values.get("kv_heads", heads),
        head_dim=values.get("head_dim", hidden // heads if heads else 0),
        gated=bool(values.get("gated", 1)),
    )
    if min(dims.ffn, dims.heads, dims.kv_heads, dims.head_dim) < 1 or dims.heads % dims.kv_heads:
        raise UsageError(
            f"--model-dims {shorten(text)!r}: every dimension must be positive and kv_heads must divide heads"
        )
    return dims


def llm_scenarios(
    dims: ModelDims, *, batches: Iterable[int], sequences: Iterable[int], dtypes: Iterable[str], label: str = ""
) -> list[MatmulConfig]:
    """The projections of a layer for prefill (M = batch x sequence) and decode (M = batch).

    Args:
        dims: The model.
        batches: Requests at once.
        sequences: Prompt lengths.
        dtypes: Element types.
        label: Goes before each name: the model.

    Returns:
        `attention-q`, `attention-kv` (keys and values at once), `attention-out`, `ffn-up` (with the gate, if the
        model has one), `ffn-down`, each for every prefill and decode; names say which.
    """
    projections = {
        "attention-q": (dims.hidden, dims.heads * dims.head_dim),
        "attention-kv": (dims.hidden, 2 * dims.kv_heads * dims.head_dim),
        "attention-out": (dims.heads * dims.head_dim, dims.hidden),
        "ffn-up": (dims.hidden, dims.ffn * (2 if dims.gated else 1)),
        "ffn-down": (dims.ffn, dims.hidden),
    }
    batch_list, types = list(batches), list(dtypes)
    phases = [(f"prefill b{batch} s{length}", batch * length) for length in sequences for batch in batch_list]
    phases += [(f"decode b{batch}", batch) for batch in batch_list]
    prefix = f"{label} " if label else ""
    return [
        MatmulConfig(M, K, N, dtype, f"{prefix}{phase} {projection}")
        for phase, M in phases
        for projection, (K, N) in projections.items()
        for dtype in types
    ]
