"""Work folders of the Neuron compiler: what was compiled, how, and what tiles the compiler chose.

Two kinds. torch-neuronx keeps `graph.neff`, `command.txt`, `model/metadata.json` and `model/graph.hlo` where it traced
a module. neuronx-cc keeps its intermediate files (`bir.json`, metric stores, tensor map, log). Any subset of the files
will do; a file that cannot be read is a note. Nothing of this is documented: rules were read off one real folder.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from npuscope.errors import FormatError, shorten
from npuscope.formats.bir import Program, read_bir
from npuscope.formats.compiler_facts import MappedTensor, number, read_tensor_map
from npuscope.formats.limited_json import BYTES_LIMIT, as_count, as_list, as_object, as_text, parse_limited_json
from npuscope.formats.neuron_log import NeuronLog, read_neuron_log
from npuscope.units import printable

WORKDIR_FILES: Final = (
    "command.txt",
    "hlo_metrics.json",
    "metrics.json",
    "tensor_map.json",
    "info.json",
    "io_transposes.json",
    "kernel_info.json",
    "mempressure.txt",
    "penguin.py",
    "log-neuron-cc.txt",
    "tensorizer_metric_store.json",
    "hilo_metric_store.json",
)
"""Files by which a folder is known for a work folder; `*_metric_store.json`, `sg00/` and `model/` also count."""
_MODEL_FILES = ("model/metadata.json", "model/graph.hlo")
_TEXT_LIMIT: Final = 1 << 20
_PEAK = re.compile(r"peak (sb|psum) usage:\s+(\d{1,12}(?:\.\d{1,12})?)")
_SUBGRAPHS_LIMIT: Final = 64


@dataclass(frozen=True, slots=True)
class CompilerWorkdir:
    """One compilation as its folder tells it."""

    source: str
    kind: str
    """`torch-neuronx-workdir` or `compiler-workdir`."""
    files: Mapping[str, int]
    """The known files that are there, by relative path, with their size in bytes."""
    command: tuple[str, ...]
    """The compiler's command line, split; () where neither `command.txt` nor the log has it."""
    command_source: str
    """The file it was read from."""
    flags: Mapping[str, str]
    """Options of the command line by name without dashes; '' for one without a value."""
    compiler_version: str
    network_name: str
    """The NEFF that `info.json` names."""
    neff: Path | None
    tensors: tuple[MappedTensor, ...]
    programs: tuple[Program, ...]
    """One a sub-graph that has a `bir.json`."""
    metrics: Mapping[str, float]
    """`<group>.<name>` to value from the metric stores, compile times left out."""
    pass_seconds: Mapping[str, float]
    """Compiler pass to seconds, from the metric stores; else from the log."""
    metadata: Mapping[str, str | int]
    """Texts and whole numbers of `model/metadata.json`."""
    log: NeuronLog | None
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Folder:
    """Reads files of one folder and collects what went wrong."""

    path: Path
    notes: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        """Whether a regular file is there; a link that leaves the folder is none."""
        try:
            found = self.path / name
            return found.is_file() and found.resolve().is_relative_to(self.path.resolve())
        except (OSError, ValueError, RuntimeError):
            return False

    def text(self, name: str, limit: int = _TEXT_LIMIT) -> str:
        """The beginning of a text file; '' where it is missing."""
        return self._bytes(name, limit).decode("utf-8", "replace")

    def json(self, name: str) -> Any:
        """A JSON document; None where it is missing or cannot be read."""
        data = self._bytes(name, BYTES_LIMIT + 1)
        if not data:
            return None
        try:
            return parse_limited_json(data, self.path / name)
        except FormatError as error:
            self.notes.append(str(error))
            return None

    def _bytes(self, name: str, limit: int) -> bytes:
        if not self.has(name):
            return b""
        try:
            with (self.path / name).open("rb") as handle:
                return handle.read(limit)
        except OSError as error:
            self.notes.append(f"{name} cannot be read: {error.strerror or error}")
            return b""


def looks_like_workdir(path: Path) -> bool:
    """Whether a folder holds at least two of a work folder's files, or a torch-neuronx trace."""
    folder = _Folder(path)
    names = (*WORKDIR_FILES, *_MODEL_FILES, "graph.neff", "sg00/bir.json", "bir.json")
    return sum(folder.has(name) for name in names) >= 2


def read_compiler_workdir(path: Path | str) -> CompilerWorkdir:
    """Read a work folder of torch-neuronx or neuronx-cc.

    Raises:
        FormatError: The path is no folder, or holds none of the known files.
    """
    source, path = str(path), Path(path)
    folder = _Folder(path)
    try:
        if not path.is_dir():
            raise FormatError(source, expected="a folder", found="a file" if path.exists() else "no such folder")
        files = dict(_known_files(folder))
    except (OSError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(source, expected="a readable folder", found=str(error)) from None
    if not files:
        expected = "a work folder of the Neuron compiler"
        raise FormatError(
            source, expected=expected, found="none of its files", remedy="known: " + ", ".join(WORKDIR_FILES[:6])
        )
    log = read_neuron_log(path / "log-neuron-cc.txt") if "log-neuron-cc.txt" in files else None
    command, command_source = _command(folder, log)
    info = as_object(folder.json("info.json"))
    metrics, seconds = _metric_stores(folder, files)
    neffs = [path / name for name in files if name.endswith(".neff")]
    workdir = CompilerWorkdir(
        source=source,
        kind="torch-neuronx-workdir"
        if any(name in files for name in ("command.txt", *_MODEL_FILES))
        else "compiler-workdir",
        files=files,
        command=command,
        command_source=command_source,
        flags=_flags(command),
        compiler_version=as_text(info.get("tool_version")) or (log.compiler_version if log else ""),
        network_name=as_text(info.get("name")),
        neff=neffs[0] if neffs else None,
        tensors=tuple(_tensor_map(folder)),
        programs=tuple(_programs(folder, files)),
        metrics={**metrics, **_small_metrics(folder)},
        pass_seconds=seconds or (log.pass_seconds if log else {}),
        metadata=dict(_metadata(folder)),
        log=log,
        notes=(),
    )
    return _with_notes(workdir, folder)


def _known_files(folder: _Folder) -> Iterator[tuple[str, int]]:
    names = [*WORKDIR_FILES, *_MODEL_FILES, "graph.neff", "model.neff", "file.neff", "bir.json"]
    stores = [p.name for p in sorted(folder.path.glob("*_metric_store.json"))[:_SUBGRAPHS_LIMIT]]
    graphs = [
        f"{p.name}/{n}"
        for p in sorted(folder.path.glob("sg[0-9]*"))[:_SUBGRAPHS_LIMIT]
        for n in ("bir.json", "tensor_map.json")
    ]
    for name in dict.fromkeys([*names, *stores, *graphs]):
        if folder.has(name):
            yield name, (folder.path / name).stat().st_size


def _command(folder: _Folder, log: NeuronLog | None) -> tuple[tuple[str, ...], str]:
    """From `command.txt`, else the last one of the log."""
    text, source = folder.text("command.txt").strip(), "command.txt"
    if not text and log is not None and log.compilations:
        text, source = log.compilations[-1].command, "log-neuron-cc.txt"
    if not text:
        return (), ""
    return split_command(text), source


def split_command(text: str) -> tuple[str, ...]:
    """A command line as a shell, or Python's `['a', 'b']`, would write it."""
    text = printable(" ".join(text[:_TEXT_LIMIT].split()))
    if text.startswith("["):
        quoted = re.findall(r"'([^']{0,4096})'|\"([^\"]{0,4096})\"", text)
        return tuple(single or double for single, double in quoted)
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return tuple(text.split())


def _flags(command: tuple[str, ...]) -> Mapping[str, str]:
    """`--target=trn1` and `--target trn1` as target: trn1; `-O1` as O: 1."""
    flags: dict[str, str] = {}
    for index, part in enumerate(command):
        if re.fullmatch(r"-O\d", part):
            flags["O"] = part[2:]
        elif part.startswith("--") and len(part) > 2:
            name, equals, value = part[2:].partition("=")
            following = command[index + 1] if index + 1 < len(command) else ""
            flags[name] = value if equals else "" if following.startswith("-") else following
    return flags


def _metric_stores(folder: _Folder, files: Mapping[str, int]) -> tuple[dict[str, float], dict[str, float]]:
    """Sums and averages over all sub-graphs, and seconds by pass; a later store does not replace an earlier one."""
    metrics: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for name in sorted((n for n in files if n.endswith("_metric_store.json")), reverse=True):
        store = as_object(folder.json(name))
        for scope in ("Sum", "Average"):
            for group, entries in as_object(store.get(scope)).items():
                for key, value in as_object(entries).items():
                    found = number(value)
                    if found is None:
                        continue
                    if group == "compiletime":
                        seconds.setdefault(as_text(key), found)
                    else:
                        metrics.setdefault(as_text(f"{group}.{key}"), found)
    return metrics, dict(sorted(seconds.items(), key=lambda item: -item[1]))


def _small_metrics(folder: _Folder) -> dict[str, float]:
    """`hlo_metrics.json`, `metrics.json`, `kernel_info.json` and `mempressure.txt`; -1 means not known there."""
    found: dict[str, float | None] = {}
    for name, value in as_object(folder.json("hlo_metrics.json")).items():
        known = number(value)
        found[as_text(f"hlo.{name}")] = None if known == -1 else known
    for entry in as_list(folder.json("metrics.json")):
        fields = as_object(entry)
        name, unit = as_text(fields.get("MetricName")), as_text(fields.get("Unit"))
        if name:
            found[f"neff.{name} ({unit})" if unit else f"neff.{name}"] = number(fields.get("Value"))
    for name, value in as_object(as_object(folder.json("kernel_info.json")).get("summary")).items():
        found[as_text(f"kernels.{name}")] = number(value)
    transposes = folder.json("io_transposes.json")
    if isinstance(transposes, list):
        found["io.transposes"] = len(transposes)
    for memory, value in _PEAK.findall(folder.text("mempressure.txt")):
        found[f"memory.peak_{'sbuf' if memory == 'sb' else 'psum'}_share"] = float(value)
    return {name: value for name, value in found.items() if value is not None}


def _tensor_map(folder: _Folder) -> Iterator[MappedTensor]:
    for name in ("tensor_map.json", "sg00/tensor_map.json"):
        document = folder.json(name)
        if document is not None:
            yield from read_tensor_map(document)
            return


def _metadata(folder: _Folder) -> Iterator[tuple[str, str | int]]:
    for name, value in as_object(folder.json("model/metadata.json")).items():
        known = as_text(value) if isinstance(value, str) else as_count(value)
        if known is not None:
            yield as_text(name), known


def _programs(folder: _Folder, files: Mapping[str, int]) -> Iterator[Program]:
    for name in files:
        if name.endswith("bir.json"):
            document = folder.json(name)
            if document is not None:
                yield read_bir(document, name)


def _with_notes(workdir: CompilerWorkdir, folder: _Folder) -> CompilerWorkdir:
    """Say what does not fit together; a command of another compilation is not this folder's."""
    notes = [*folder.notes, *(workdir.log.notes if workdir.log else ())]
    commands = [run.command for run in workdir.log.compilations] if workdir.log else []
    name = workdir.network_name
    if name and commands and not any(name in command for command in commands):
        notes.append(
            f"log-neuron-cc.txt is of another compilation: the other files name {shorten(printable(name))}, the log does not"
        )
        if workdir.command_source == "log-neuron-cc.txt":
            workdir = replace(workdir, command=(), command_source="", flags={})
    return replace(workdir, notes=tuple(notes))
