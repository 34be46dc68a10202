"""Which of the NEFFs that a run wrote is the kernel's: told from what it takes, never from its age.

A run of torch_xla compiles a graph for everything that it dispatches, and NEURON_FRAMEWORK_DEBUG=1 saves each as
`MODULE_<n>_SyncTensorsGraph.<m>_<hash>.neff` beside `.hlo.pb`, `.pbtxt` and `_compile_flags.txt` (aws-neuron-sdk issue 781).
Names and times say nothing of what is in them; the inputs that they declare do, by number and bytes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from npuscope.errors import FormatError, MeasurementError, shorten
from npuscope.formats.neff import read_neff

_SCALAR_BYTES: Final = 8
"""Inputs up to this size may be constants that the framework hands over."""
_NAMED: Final = 6
"""NEFFs that an error names."""


@dataclass(frozen=True, slots=True)
class ChosenNeff:
    """The kernel's NEFF, and how its inputs correspond to the kernel's."""

    path: Path
    input_names: tuple[str, ...]
    """As the NEFF has them, in its order; empty where nothing of it tells."""
    bindings: tuple[tuple[str, str], ...]
    """Kernel's input to NEFF's input, where names or sizes leave no doubt."""
    compiler_version: str
    """As the NEFF says; '' where it does not."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    path: Path
    key: str
    inputs: Mapping[str, int]
    """Name to bytes."""
    compiler_version: str


def choose_neff(
    paths: Iterable[Path],
    wanted: Mapping[str, int],
    *,
    extra_bytes: Sequence[int] = (),
    output_dir: Path,
    what: str,
) -> ChosenNeff:
    """The one NEFF that takes what the kernel takes.

    Args:
        paths: NEFFs of one run; of equal ones the first counts.
        wanted: The kernel's inputs as they would be named in the NEFF, with their bytes.
        extra_bytes: Sizes of further inputs that its caller may hand over.
        output_dir: What paths in messages are relative to.
        what: What was built, for messages.

    Raises:
        MeasurementError: None of them does, or several do, or one cannot be read.
    """
    candidates = _distinct(paths, what)
    if not candidates:
        raise MeasurementError(f"{what} wrote no NEFF")
    fitting = [each for each in candidates if _fits(each.inputs, wanted, extra_bytes)]
    if len(fitting) == 1:
        return _chosen(fitting[0], wanted, len(candidates) - 1)
    shown = _listed([each.path for each in (fitting or candidates)], output_dir)
    sizes = f"{len(wanted)} inputs of {', '.join(f'{size:,}' for size in wanted.values())} bytes"
    if fitting:
        raise MeasurementError(f"{what} wrote {len(fitting)} NEFFs that take {sizes}, and nothing tells which: {shown}")
    if len(candidates) == 1 and not candidates[0].inputs:
        note = f"{candidates[0].path.name} tells no inputs: it is taken because this run wrote no other"
        return ChosenNeff(candidates[0].path, (), (), candidates[0].compiler_version, (note,))
    raise MeasurementError(f"{what} wrote no NEFF that takes {sizes}; it wrote {shown}")


def _distinct(paths: Iterable[Path], what: str) -> list[_Candidate]:
    """Each compilation once: a cache keeps a copy of what was saved elsewhere too."""
    found: dict[str, _Candidate] = {}
    for path in paths:
        try:
            neff = read_neff(path)
        except FormatError as error:
            raise MeasurementError(f"{what} wrote a NEFF that cannot be read: {error}") from error
        inputs = {tensor.name: tensor.size_bytes for tensor in neff.contents.tensors if tensor.type == "IN"}
        uuid = neff.header.uuid
        key = uuid.hex() if any(uuid) else hashlib.sha256(path.read_bytes()).hexdigest()
        found.setdefault(key, _Candidate(path, key, inputs, neff.contents.compiler_version))
    return list(found.values())


def _fits(inputs: Mapping[str, int], wanted: Mapping[str, int], extra_bytes: Sequence[int]) -> bool:
    """Whether a graph takes the kernel's inputs, and beside them only what its caller or the framework hands over."""
    left = Counter(inputs.values())
    for size, count in Counter(wanted.values()).items():
        if left[size] < count:
            return False
        left[size] -= count
    left.subtract({size: min(left[size], count) for size, count in Counter(extra_bytes).items()})
    return all(size <= _SCALAR_BYTES for size, count in left.items() if count)


def _chosen(candidate: _Candidate, wanted: Mapping[str, int], others: int) -> ChosenNeff:
    bindings, notes = [], []
    uncertain = []
    sizes = Counter(candidate.inputs.values())
    for name, size in wanted.items():
        if candidate.inputs.get(name) == size:
            bindings.append((name, name))
        elif sizes[size] == 1:
            bindings.append((name, next(each for each, of in candidate.inputs.items() if of == size)))
        else:
            uncertain.append(name)
    if uncertain:
        notes.append(
            f"{' and '.join(uncertain)} have the size of another input: the NEFF's own names ({', '.join(candidate.inputs)})"
            " do not tell them apart"
        )
    if others:
        notes.append(f"{others} other NEFF{'s' if others > 1 else ''} of this run take other inputs")
    names = tuple(candidate.inputs)
    return ChosenNeff(candidate.path, names, tuple(bindings), candidate.compiler_version, tuple(notes))


def _listed(paths: Sequence[Path], output_dir: Path) -> str:
    names = [str(path.relative_to(output_dir)) if path.is_relative_to(output_dir) else str(path) for path in paths]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return shorten(", ".join(names[:_NAMED]), 600) + more
