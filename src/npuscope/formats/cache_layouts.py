"""What in a cache its makers wrote for sure, by exact places and names: nothing else is ever deleted.

Listing is tolerant, this is not: an entry that lies elsewhere, has no mark of its layout beyond a lock or a log, or was not read whole is nobody's here.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

COMPILER_FOLDER: Final = re.compile(r"(?:USER_)?neuronx?cc-[0-9][\w.+-]{0,80}", re.ASCII)
_MODULE_FOLDER: Final = re.compile(r"MODULE_[0-9a-f]{1,64}(?:\+[0-9a-f]{1,64})?")
_VLLM_FOLDER: Final = re.compile(r"[0-9a-f]{32}")
_HLO_FILES: Final = frozenset({"model.hlo_module.pb", "model.hlo_module.pb.gz", "model.hlo.pb", "model.hlo.pb.gz"})
_NEURON_MARKS: Final = frozenset({"model.neff", "model.done", "compile_flags.json"}) | _HLO_FILES
_NEURON_FILES: Final = _NEURON_MARKS | {"model.log", "wrapped_neff.hlo"} | {f"{name}.lock" for name in _HLO_FILES}
_VLLM_MARK: Final = ".compilation_complete"
_VLLM_NEFF: Final = "graph.neff"
DONE_MARKS: Final = frozenset({"model.done", _VLLM_MARK})
"""Files that say that an entry is whole."""


def maker_of(root_name: str, key: str, names: Collection[str]) -> str:
    """The cache that made an entry for sure: `neuron` or `vllm`; '' in doubt.

    Args:
        root_name: The cache's folder without those above it, no link.
        key: The entry's folder relative to it.
        names: Of the files directly in the entry's folder.
    """
    *above, folder = key.split("/")
    if _MODULE_FOLDER.fullmatch(folder) and COMPILER_FOLDER.fullmatch(above[-1] if above else root_name):
        return "neuron" if not _NEURON_MARKS.isdisjoint(names) else ""
    if above or not _VLLM_FOLDER.fullmatch(folder):
        return ""
    own = names_of("vllm", key)
    # graph.neff is what any trace leaves: alone it tells nothing once something else lies beside it.
    is_marked = _VLLM_MARK in names or _named_neff(folder) in names or (_VLLM_NEFF in names and own.issuperset(names))
    return "vllm" if is_marked else ""


def names_of(maker: str, key: str) -> frozenset[str]:
    """The names of the files that a cache writes into an entry's folder."""
    if maker == "neuron":
        return _NEURON_FILES
    return frozenset({_VLLM_MARK, _VLLM_NEFF, _named_neff(key)}) if maker == "vllm" else frozenset()


def _named_neff(key: str) -> str:
    return f"graph_{key}.neff"
