"""Implementations of a kernel, as entries: what to call, on which devices, with which inputs, and what is right.

An entry is data. Its target is imported only where it is run, in a process of its own. A package adds entries by an entry point:

    [project.entry-points."npuscope.kernels"]
    my-mlp = "my_package.kernels:MY_MLP"

where `MY_MLP` is a `KernelEntry`. Its module is imported to list it, and should import nothing heavy.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from npuscope.errors import UsageError, shorten, unknown_name
from npuscope.workloads.mlp import INPUT_NAMES

MLP: Final = "mlp"
EXAMPLES: Final = "examples/nki/"
"""Where kernels of npuscope's own lie in a checkout; an installation has them among its files."""
GROUP: Final = "npuscope.kernels"
"""Of the entry points by which packages add entries."""
_SIM: Final = "sim:*"
_NEURON: Final = "neuron"
_USER_DEVICES: Final = ("cpu", "jax:*", _SIM, _NEURON)
"""Where functions of a user's own can run."""
_TOKENS: Final = (
    "hidden states as [batch * sequence, hidden]; weights [hidden, intermediate] twice, [intermediate, hidden]"
)
_WHOLE: Final = (
    "hidden states as [batch, sequence, hidden]; weights [hidden, intermediate] twice, [intermediate, hidden]"
)


@dataclass(frozen=True, slots=True)
class KernelEntry:
    """One implementation of a kernel."""

    name: str
    """What tables call it."""
    target: str
    """`FILE.py:FUNCTION` or `package.module:FUNCTION`."""
    devices: tuple[str, ...]
    """Patterns of device names that it runs on, the default first: `jax:*`, `sim:*`."""
    default_device: str
    """'' where one has to be named."""
    inputs: str
    """What it takes, in words; always the tensors of `input_names`, in that order."""
    origin: str
    """Where it is from."""
    family: str = MLP
    input_names: tuple[str, ...] = INPUT_NAMES
    reference: str = "npuscope.workloads.mlp:reference"
    """What computes the right result, in float64."""
    flat_tokens: bool = False
    """It takes the hidden states as [batch * sequence, hidden], and returns its result so."""
    is_user_code: bool = False

    def runs_on(self, device: str) -> bool:
        """Whether a device is of a kind that it is written for."""
        return any(fnmatchcase(device, pattern) for pattern in self.devices)


@dataclass(frozen=True, slots=True)
class Implementation:
    """An entry on one device."""

    entry: KernelEntry
    device: str

    @property
    def name(self) -> str:
        """The entry's."""
        return self.entry.name


ENTRIES: Final = (
    KernelEntry(
        name="numpy",
        target="npuscope.backends.mlp_numpy:mlp",
        devices=("cpu",),
        default_device="cpu",
        inputs=_WHOLE,
        origin="npuscope; np.matmul, in float32 for bfloat16 (weights are widened once, before anything is timed)",
    ),
    KernelEntry(
        name="jax",
        target="npuscope.backends.mlp_jax:fused",
        devices=("jax:*",),
        default_device="jax:cpu",
        inputs=_WHOLE,
        origin="npuscope; one jitted function, fused by XLA",
    ),
    KernelEntry(
        name="jax-naive",
        target="npuscope.backends.mlp_jax:naive",
        devices=("jax:*",),
        default_device="jax:cpu",
        inputs=_WHOLE,
        origin="npuscope; five programs, one for each operation, dispatched one after another",
    ),
    KernelEntry(
        name="openvino",
        target="npuscope.backends.mlp_openvino:model",
        devices=("openvino:*",),
        default_device="openvino:cpu",
        inputs=_WHOLE,
        origin="npuscope; one model, weights as inputs",
    ),
    KernelEntry(
        name="nki-tokens",
        target=f"{EXAMPLES}mlp_tokens.py:kernel",
        devices=(_SIM, _NEURON),
        default_device="sim:trn2",
        inputs=_TOKENS,
        origin="npuscope, examples/nki; tokens along the partitions",
        flat_tokens=True,
    ),
    KernelEntry(
        name="nki-columns",
        target=f"{EXAMPLES}mlp_columns.py:kernel",
        devices=(_SIM, _NEURON),
        default_device="sim:trn2",
        inputs=_TOKENS,
        origin="npuscope, examples/nki; columns of the intermediate along the partitions",
        flat_tokens=True,
    ),
    KernelEntry(
        name="nkilib",
        target="nkilib.core.mlp.mlp:mlp",
        devices=(_NEURON,),
        default_device=_NEURON,
        inputs=_WHOLE,
        origin="aws-neuron/nki-library; by import path, it has to be installed",
    ),
    KernelEntry(
        name="neuronxcc",
        target="neuronxcc.nki._private_kernels.mlp:mlp_isa_kernel",
        devices=(_NEURON,),
        default_device=_NEURON,
        inputs=_WHOLE,
        origin="the Neuron compiler's own kernel; by import path, it has to be installed",
    ),
)


@dataclass(frozen=True, slots=True)
class Installed:
    """Entries of other packages."""

    entries: tuple[KernelEntry, ...]
    refused: tuple[str, ...]
    """Entry points that give no usable entry, with the reason."""


def installed_entries() -> Installed:
    """Entries that installed packages bring; one that cannot be loaded is told and does not stop the others."""
    entries: dict[str, KernelEntry] = {}
    refused = []
    own = {entry.name for entry in ENTRIES}
    for point in entry_points(group=GROUP):
        where = f"entry point {point.name} ({point.value})"
        try:
            entry = point.load()
        except Exception as error:  # noqa: BLE001  # another package's code
            refused.append(f"{where} cannot be loaded: {type(error).__name__}: {shorten(str(error))}")
            continue
        if not isinstance(entry, KernelEntry) or entry.family != MLP:
            refused.append(f"{where} is no KernelEntry of the family {MLP}")
        elif entry.name in own or entry.name in entries:
            refused.append(f"{where}: the name {entry.name} is taken")
        else:
            entries[entry.name] = replace(entry, is_user_code=True)
    return Installed(tuple(entries.values()), tuple(refused))


def find_entry(name: str, *, flat_tokens: bool = False) -> KernelEntry:
    """An entry by name, or one of a user's own: `PATH.py:FUNC` or `package.module:FUNC`.

    A user's file is not run here: what it imports tells for which devices it is written.

    Args:
        name: As given.
        flat_tokens: A user's function takes the hidden states as [batch * sequence, hidden].

    Raises:
        UsageError: No such entry, file or form.
    """
    known = {entry.name: entry for entry in ENTRIES}
    if name not in known and ":" not in name:
        known |= {entry.name: entry for entry in installed_entries().entries}
    if name in known:
        return known[name]
    place, separator, function = name.rpartition(":")
    if not separator or not function.isidentifier():
        if name.endswith(".py"):
            raise UsageError(f"--impl {shorten(name)!r} names a file and no function of it; expected {name}:FUNCTION")
        raise unknown_name("implementation", name, [*known, "PATH.py:FUNC"])
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise UsageError(f"--impl {shorten(name)!r}: there is no file {shorten(place)!r}")
        kinds, default = _devices_of(path, function)
        shown = f"{shorten(path.stem)}:{function}"
    elif all(part.isidentifier() for part in place.split(".")):
        kinds, default, shown = _USER_DEVICES, "", name
    else:
        raise UsageError(f"--impl {shorten(name)!r} is neither PATH.py:FUNC nor package.module:FUNC")
    return KernelEntry(
        name=shown,
        target=name,
        devices=kinds,
        default_device=default,
        inputs=_TOKENS if flat_tokens else _WHOLE,
        origin="given by the user",
        flat_tokens=flat_tokens,
        is_user_code=True,
    )


def _devices_of(path: Path, function: str) -> tuple[tuple[str, ...], str]:
    """Kinds of devices that a file's function can be run on, and the one to take where none is named, by its imports.

    Raises:
        UsageError: It is no Python, or certainly defines no such function.
    """
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise UsageError(f"--impl {shorten(str(path), 200)}:{error.lineno or 1}: syntax error: {error.msg}") from error
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"--impl {shorten(str(path), 200)} cannot be read as Python: {shorten(str(error))}") from error
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.add(node.module.partition(".")[0])
    _require_function(path, function, tree)
    if imported & {"nki", "neuronxcc"}:
        return (_SIM, _NEURON), "sim:trn2"
    if "jax" in imported:
        return ("jax:*",), "jax:cpu"
    return ("cpu",), "cpu"


def _require_function(path: Path, function: str, tree: ast.Module) -> None:
    """A wrong name is told before anything runs, where the file's outermost statements leave no doubt.

    Raises:
        UsageError: Nothing of this name is bound.
    """
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        elif not isinstance(node, ast.Expr | ast.Assert | ast.Pass):
            return  # an if, a try, a loop: what they bind is known when they run
    if function not in names and "*" not in names:
        raise unknown_name(f"function of {path}", function, names or ["none"])


def choose(names: Sequence[str], devices: Sequence[str], *, flat_tokens: bool = False) -> tuple[Implementation, ...]:
    """Implementations with the device of each: `NAME@DEVICE`, else the first of `devices` that it is written for, else its own.

    A device that was named is never passed over: one that no implementation takes, and an implementation that takes none of
    them, are errors.

    Args:
        names: `NAME`, `NAME@DEVICE`, `PATH.py:FUNC` or `PATH.py:FUNC@DEVICE`.
        devices: As the user named them, in full form.
        flat_tokens: As for `find_entry`.

    Raises:
        UsageError: An unknown name, or devices and implementations that do not fit.
    """
    chosen: list[Implementation] = []
    for text in names:
        name, _, named = text.rpartition("@") if "@" in text else (text, "", "")
        entry = find_entry(name, flat_tokens=flat_tokens)
        if named and entry.is_user_code:
            entry = replace(entry, devices=_USER_DEVICES)  # whoever names a device knows better than the imports
        wanted = [named.strip().lower()] if named else list(devices)
        fitting = [device for device in wanted if entry.runs_on(device)]
        if wanted and not fitting:
            kinds = ", ".join(entry.devices)
            raise UsageError(
                f"--impl {entry.name} runs on {kinds}, not on {', '.join(wanted)}; name another --device for it"
            )
        device = fitting[0] if fitting else entry.default_device
        if not device:
            raise UsageError(f"--impl {entry.name}: nothing tells its device; write {entry.name}@DEVICE")
        chosen.append(Implementation(entry, device))
    idle = [device for device in devices if all(item.device != device for item in chosen)]
    if idle:
        raise UsageError(f"--device {', '.join(idle)}: no implementation was given for it; see npuscope kernels list")
    return _with_distinct_names(chosen)


def _with_distinct_names(chosen: Sequence[Implementation]) -> tuple[Implementation, ...]:
    """One implementation on two devices is `NAME@DEVICE`; the same on the same device is an error.

    Raises:
        UsageError: The same twice.
    """
    seen: dict[tuple[str, str], str] = {}
    for item in chosen:
        key = item.entry.name, item.device
        if key in seen:
            raise UsageError(f"--impl {item.entry.name} on {item.device} is there twice; rename one of the functions")
        seen[key] = item.entry.target
    names = [item.entry.name for item in chosen]
    return tuple(
        replace(item, entry=replace(item.entry, name=f"{item.name}@{item.device}"))
        if names.count(item.name) > 1
        else item
        for item in chosen
    )
