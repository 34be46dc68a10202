"""The message of an HLO module, and the ones around it: `HloProto` wraps a module, a snapshot wraps an `HloProto`.

Protobuf messages do not say what they are. A module is told by what only a module has: computations with ops, and an entry.
"""

from __future__ import annotations

from typing import Any, Final

from npuscope.errors import FormatError
from npuscope.formats.hlo_schema import message_class
from npuscope.formats.protobuf_wire import parse_message

OPS_LIMIT: Final = 1_000_000
"""Of one module: each takes about a kilobyte of memory, and an empty one two bytes of a file."""
_WRAPPERS: Final = 3
_OP_TAG: Final = b"\x12"
"""With which each op of a computation begins: field 2, a message."""


def module_message(data: bytes, source: str) -> Any:
    """Decode a module but for its ops (a `ModuleOutline`), or the one within messages that hold it as their first field.

    Raises:
        FormatError: It is truncated or damaged, another message, or has too many ops.
    """
    from google.protobuf.message import DecodeError

    kind = message_class("ModuleOutline")
    inner, reason = data, "another message"
    for _ in range(_WRAPPERS):
        _check_ops(inner, source)
        try:
            message = kind.FromString(inner)
        except DecodeError:
            message = None
        if message is not None and _is_module(message):
            return message
        try:
            inner = parse_message(memoryview(inner), source, 0).bytes(1)
        except FormatError as error:
            if inner is data:
                reason = str(error).removeprefix(f"{source}, ")
            break
    raise FormatError(
        source,
        expected="a serialized HLO module (HloModuleProto or HloProto)",
        found=reason,
        remedy="if the file is cut off, copy it again",
    )


def _is_module(message: Any) -> bool:
    """Whether this is a module and not another message that happens to decode as one."""
    from google.protobuf.message import DecodeError

    if not message.computations or not (message.entry_computation_id or message.entry_computation_name):
        return False
    ops = message.computations[0].instructions
    if not ops:
        return False
    try:
        return bool(message_class("Instruction").FromString(ops[0]).opcode)
    except DecodeError:
        return False


def _check_ops(data: bytes, source: str) -> None:
    """Refuse a message with too many ops before it is decoded; only one with very many bytes of their tag is walked."""
    if data.count(_OP_TAG) <= OPS_LIMIT:
        return
    ops = 0
    for offset, view in parse_message(memoryview(data), source).payloads.get(3, []):
        ops += len(parse_message(view, source, offset).payloads.get(2, []))
        if ops > OPS_LIMIT:
            raise FormatError(source, where="computations", expected=f"at most {OPS_LIMIT:,} ops", found="more")
