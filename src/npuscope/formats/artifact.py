"""What a path holds, told from its content and never from its name alone; and the reader that takes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from npuscope.errors import FormatError, UsageError
from npuscope.formats.hlo_text import begins_as_text_program, looks_like_hlo, looks_like_text_program
from npuscope.formats.inspection import Inspection
from npuscope.profile.tables import Profile

_HEAD_BYTES = 1 << 16
_SCAN_BYTES = 8 << 20
_NTFF_VERSIONS = range(1, 256)
_VENDOR_KEYS = {
    "summary", "metadata", "neff_header", "profile_info", "model_info", "layer_summary", "instruction", "dma",
    "dma_queues_info", "dma_throughput", "pending_dma", "semaphore_update", "instruction_usage", "active_time", "ham",
    "neff_node", "nc_mem_usage", "warnings", "terminology", "summary_groups", "summary_group_order",
}  # fmt: skip
_SYSTEM_KEYS = {"trace_events", "mem_usage", "cpu_util"}
_TABLE_FILE = re.compile(r"[A-Z][A-Za-z]*(_\d+)?\.parquet")
_LOG_WORDS = re.compile(
    rb"NEURON_CC_WRAPPER|NCC_WRAPPER|neuronx-cc|neuron-cc|libneuronxla|Compiler status|Using a cached neff|hlo2penguin"
)
_CACHE_FOLDER = re.compile(r"MODULE_.+|neuronxcc-.+|matmul_\d+x\d+x\d+.*")
_HLO_NAMES = (".hlo.pb", ".hlo_module.pb")
"""Endings of what is meant to be HLO even if it is damaged."""
_WORKDIR_FILES = {
    "hlo_metrics.json", "metrics.json", "tensor_map.json", "log-neuron-cc.txt", "command.txt", "penguin.py",
    "hilo_metric_store.json", "tensorizer_metric_store.json", "kernel_info.json",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of artifact: what to call it, and who reads it."""

    name: str
    words: str
    """What it is, in words."""
    reader: str = ""
    """`module:function` that makes a Profile; '' where it holds none."""
    inspector: str = ""
    """`module:function` that makes an Inspection."""
    command: str = "npuscope inspect"
    """What reads it where it holds no profile."""


KINDS = {
    kind.name: kind
    for kind in (
        Kind("ntff", "Neuron capture (NTFF)", "capture:read_capture", "capture:inspect_capture"),
        Kind("captures", "folder of Neuron captures", "capture:read_capture_folder", "capture:inspect_capture_folder"),
        Kind("neuron-json", "vendor profile JSON", "neuron_json:read_neuron_json", "neuron_json:inspect_neuron_json"),
        Kind("system-profile", "vendor system profile JSON", "system_profile:read_system_profile", "system_profile:inspect_system_profile"),
        Kind("summary-json", "vendor summary JSON", "summary_json:read_summary_json", "summary_json:inspect_summary_json"),
        Kind("show-session", "show-session table", "summary_json:read_show_session", "summary_json:inspect_show_session"),
        Kind("neuron-parquet", "folder of Parquet tables", "neuron_parquet:read_neuron_parquet", "neuron_parquet:inspect_neuron_parquet"),
        Kind("perfetto", "Perfetto trace", "perfetto:read_perfetto", "perfetto:inspect_perfetto"),
        Kind("chrome-trace", "Chrome JSON trace", "chrome_trace:read_chrome_trace", "chrome_trace:inspect_chrome_trace"),
        Kind("neff", "compiled graph (NEFF)", "", "neff_inspection:inspect_neff"),
        Kind("compiler-workdir", "compiler work folder", "", "workdir_inspection:inspect_compiler_workdir"),
        Kind("compile-cache", "compile cache", "", "cache_inspection:inspect_cache"),
        Kind("neuron-log", "compiler or runtime log", "", "neuron_log_inspection:inspect_neuron_log"),
        Kind("hlo", "XLA program (HLO)", "", "hlo_inspection:inspect_hlo", "npuscope simulate"),
        Kind("hlo-text", "XLA program as text or MLIR", "", "", "npuscope simulate"),
        Kind("xclbin", "compiled XDNA design (xclbin)", "", "xclbin:inspect_xclbin", "npuscope inspect"),
        Kind("results", "results of npuscope matmul", command="npuscope tiling"),
        Kind("patterns", "results of npuscope patterns", command="npuscope patterns --from"),
        Kind("kernel-build", "build of npuscope mlp, its Profiles in profiles/NAME,", "", "kernel_folder_inspection:inspect_kernel_folder"),
    )
}  # fmt: skip


def identify(path: Path) -> Kind:
    """What a file or folder holds.

    Raises:
        FormatError: It is missing, empty, unreadable, or nothing that any reader knows.
    """
    try:
        if path.is_dir():
            return KINDS[_folder_kind(path)]
        if not path.exists():
            raise FormatError(path, expected="a file or folder", found="nothing there")
        if not path.is_file():
            raise FormatError(path, expected="a regular file or a folder", found="something else, such as a device")
        if path.stat().st_size == 0:  # so are special files that call themselves regular, whose reading may never end
            raise FormatError(path, expected="a capture, trace, profile or compiled graph", found="an empty file")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        return KINDS[_file_kind(path, head)]
    except OSError as error:
        raise FormatError(path, expected="a readable file or folder", found=error.strerror or str(error)) from error


def read_profile(path: Path) -> Profile:
    """The Profile of any artifact that holds one.

    Raises:
        FormatError: The artifact is damaged or unknown.
        UsageError: It is known and holds no profile; the message names the command that reads it.
        UnavailableError: Its reader needs a package that is not installed.
    """
    kind = identify(path)
    if not kind.reader:
        use = "predict one" if kind.command == "npuscope simulate" else "read it"
        raise UsageError(f"{path} is a {kind.words} and holds no profile; {use} with {kind.command} {path}")
    profile: Profile = _function(kind.reader)(path)
    return profile


def inspect_artifact(path: Path) -> Inspection:
    """What any artifact is and what is in it.

    Raises:
        FormatError: The artifact is damaged or unknown.
        UsageError: Another command shows it.
    """
    kind = identify(path)
    if not kind.inspector:
        raise UsageError(f"{path} holds {kind.words}; read it with {kind.command} {path}")
    inspection: Inspection = _function(kind.inspector)(path)
    return inspection


def _function(place: str) -> Callable[[Path], Any]:
    """Readers are imported when they are needed: some of them load large libraries."""
    module, _, name = place.partition(":")
    found: Callable[[Path], Any] = getattr(import_module(f"npuscope.formats.{module}"), name)
    return found


def _folder_kind(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    if "manifest.json" in names and "inputs" in names:
        return "kernel-build"
    if "perfetto_pattern_mapping.json" in names:
        return "patterns"
    if any(name in {"journal.jsonl", "results.parquet", "results.csv"} for name in names):
        return "results"
    if any(_TABLE_FILE.fullmatch(name) for name in names):
        return "neuron-parquet"
    if any(name.endswith(".ntff") for name in names):
        return "captures"
    if _WORKDIR_FILES & set(names):
        return "compiler-workdir"
    if any(_CACHE_FOLDER.fullmatch(name) for name in [*names, folder.name]):
        return "compile-cache"
    found = _below(folder)
    if found:
        return found
    shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    expected = "a folder of captures, Parquet tables, a compile cache or a compiler's work folder"
    raise FormatError(folder, expected=expected, found=f"{shown}" if names else "an empty folder")


def _below(folder: Path) -> str:
    """What a tree holds whose top folder does not tell, by a bounded walk; captures go before the NEFFs beside them."""
    found = ""
    for count, path in enumerate(folder.rglob("*")):
        if count > 20_000:
            break
        if path.suffix == ".ntff":
            return "captures"
        if not found and (path.suffix == ".neff" or path.name == ".compilation_complete"):
            found = "compile-cache"
        if not found and _TABLE_FILE.fullmatch(path.name):
            found = "neuron-parquet"
    return found


def _file_kind(path: Path, head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return "neuron-parquet"
    if head.startswith(b"xclbin2\0"):
        return "xclbin"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"{", b"["):
        return _json_kind(path, text)
    if head.startswith(b"\x1f\x8b"):
        return _gzip_kind(path)
    if _looks_like_neff(path, head):
        return "neff"
    if _looks_like_ntff(path, head):
        return "ntff"
    if looks_like_hlo(head) or path.name.endswith(_HLO_NAMES):
        return "hlo"
    if (head[0] == 0x0A and b"\0" in head) or path.suffix in {".pftrace", ".perfetto-trace"}:
        return "perfetto"
    if b"EXEC TIME" in head and b"NODE ID" in head:
        return "show-session"
    if begins_as_text_program(head):
        return "hlo-text"
    if b"\0" not in head[:4096] and _LOG_WORDS.search(head):
        return "neuron-log"
    if looks_like_text_program(head):
        return "hlo-text"
    expected = (
        "NTFF, NEFF, profile JSON, Parquet, HLO, a Perfetto or Chrome trace, a show-session table or a compiler log"
    )
    raise FormatError(path, where="byte 0", expected=expected, found=repr(head[:16]))


def _looks_like_neff(path: Path, head: bytes) -> bool:
    """A header size of at least 1,024 at byte 8 and a payload that fits; the format has no magic number."""
    header, data = (int.from_bytes(head[at : at + 8], "little") for at in (8, 16))
    plausible = 1024 <= header < 1 << 20 and int.from_bytes(head[:8], "little") < 256
    return path.suffix == ".neff" or (plausible and 0 < data <= path.stat().st_size)


def _looks_like_ntff(path: Path, head: bytes) -> bool:
    """A version byte, a metadata length that fits, and zeros up to byte 128."""
    length = int.from_bytes(head[1:9], "little")
    plausible = head[0] in _NTFF_VERSIONS and length <= max(path.stat().st_size - 128, 0)
    return path.suffix == ".ntff" or (plausible and len(head) >= 128 and not any(head[17:128]))


def _gzip_kind(path: Path) -> str:
    """Gzip of a JSON trace or profile, of HLO, serialized or as text, or of a Perfetto trace: told from the first unpacked bytes."""
    import zlib

    with path.open("rb") as file:
        packed = file.read(_HEAD_BYTES)
    try:
        head = zlib.decompressobj(31).decompress(packed, _HEAD_BYTES)
    except zlib.error as error:
        raise FormatError(path, where="byte 0", expected="gzip data", found=str(error)) from error
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"{", b"["):
        kind = _json_kind(path, text)
        return "chrome-trace" if kind == "summary-json" else kind
    if looks_like_hlo(head) or path.name.removesuffix(".gz").endswith(_HLO_NAMES):
        return "hlo"
    return "hlo-text" if looks_like_text_program(head) else "perfetto"


def _json_kind(path: Path, text: bytes) -> str:
    key = re.match(rb'\{\s*"((?:[^"\\]|\\.)*)"\s*:', text)
    first = key.group(1).decode("utf-8", "replace") if key else ""
    if text[:1] == b"[":
        return "chrome-trace" if re.search(rb'"ph"\s*:', text) else "summary-json"
    if first in _SYSTEM_KEYS:
        return "system-profile"
    if first in _VENDOR_KEYS:
        return "summary-json" if first == "summary" and not _mentions(path, b'"instruction"') else "neuron-json"
    if first == "traceEvents" or _mentions(path, b'"traceEvents"'):
        return "chrome-trace"
    return "summary-json"


def _mentions(path: Path, word: bytes) -> bool:
    """Whether a file holds a word; read in blocks that overlap, so that none is missed."""
    tail = b""
    with path.open("rb") as file:
        while block := file.read(_SCAN_BYTES):
            if word in tail + block:
                return True
            tail = block[-len(word) :]
    return False
