"""What files and command lines may hold: valid, nearly valid, and anything at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

numbers = st.one_of(
    st.integers(1, 5000).map(str),
    st.floats(1e-6, 1e6).map(repr),
    st.sampled_from(
        ["0", "-1", "1.5", "1e308", "1e-320", "nan", "inf", "-0.0", "1_0", "", " 7 ", "x", "１", "9" * 400]
    ),
)
cells = st.one_of(numbers, st.text(max_size=8), st.sampled_from(["ok", "failed", "cpu", '"', "'", "\r", "=1+1"]))
headers = st.sampled_from(
    [
        "M",
        "K",
        "N",
        "latency_ms",
        "length",
        "count",
        "actual_N",
        "bucket_N",
        "npu_only_ms",
        "batch_seq_bucket",
        "batch_seq_actual",
        "hidden_dim",
        "intermediate_dim",
        "status",
        "device",
        "dtype",
        "name",
        "dispatch_floor_ms",
        "latency_ci_low_ms",
        "latency_ci_high_ms",
        "num_tiles_M",
        "num_tiles_K",
        "num_tiles_N",
    ]
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """CSV files with known headers; most rows are as long as the header."""
    columns = draw(st.lists(headers, min_size=1, max_size=8, unique=True))
    if draw(st.booleans()):
        columns = list(dict.fromkeys(["M", "K", "N", "latency_ms", *columns]))
    widths = st.just(len(columns)) | st.integers(0, 10)
    cell = draw(st.sampled_from([numbers, cells, st.integers(1, 300).map(str)]))
    rows = [[draw(cell) for _ in range(draw(widths))] for _ in range(draw(st.integers(0, 6)))]
    separator = draw(st.sampled_from([",", ",", ",", ";"]))
    ending = draw(st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n"]))
    text = ending.join(separator.join(row) for row in [columns, *rows])
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])), errors="replace")


@st.composite
def mutations(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with a few bytes replaced, put in, left out, repeated, or cut off at the end."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(changed)))
        stop = min(len(changed), start + draw(st.integers(0, 12)))
        kind = draw(st.sampled_from(["replace", "repeat", "cut", "number"]))
        if kind == "replace":
            changed[start:stop] = draw(st.binary(max_size=12))
        elif kind == "repeat":
            changed[start:start] = changed[start:stop] * draw(st.integers(1, 40))
        elif kind == "cut":
            del changed[start:]
        else:
            changed[start:stop] = draw(numbers).encode()
    return bytes(changed)


json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 99, 10**30, 0.5, -0.0, float("nan"), float("inf"), "", "x", "1", [], {}, [[]]]),
    st.text(max_size=5),
    st.lists(st.sampled_from([1, -1, 1.5, None, "x", []]), max_size=3),
    st.dictionaries(st.sampled_from(["M", "name", "x"]), st.integers(), max_size=2),
)


@st.composite
def edits(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document of which one value, however deep, is another, or gone, or has company."""
    copy = json.loads(json.dumps(document))
    inner, path = copy, []
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        path.append((inner, key))
        inner = inner[key]
        if draw(st.integers(0, 2)) == 0:
            break
    if not path:
        return draw(json_values)
    holder, key = path[-1]
    if draw(st.integers(0, 4)) == 0:
        del holder[key]
    elif isinstance(holder, dict) and draw(st.integers(0, 9)) == 0:
        holder[draw(st.text(max_size=5))] = draw(json_values)
    else:
        holder[key] = draw(json_values)
    return copy


def separated(keys: list[str], separator: str = ",") -> st.SearchStrategy[str]:
    """`key=value` parts, as options of the command line hold them."""
    key = st.sampled_from(keys) | st.text(max_size=4)
    part: Callable[..., str] = "{}{}{}".format
    parts = st.builds(part, key, st.sampled_from(["=", "=", "=", "", "=="]), numbers | st.text(max_size=6))
    return st.lists(parts, max_size=4).map(separator.join)
