"""The streaming reader accepts what `json.loads` accepts and gives its values, whatever the size of its blocks."""

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from npuscope.errors import FormatError
from npuscope.formats.json_stream import iterate_document

fuzz = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
blocks = st.sampled_from([1, 7, 16, 64, 300, 1 << 16])
awkward = st.sampled_from(["", "},{", "}", "{", "]", "[", '"', "\\", '\\"', "\\\\", "a,b", "é", "\u2028", "\U0001f600"])
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | awkward
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(awkward, inner, max_size=5), max_leaves=25
)
documents = st.dictionaries(st.sampled_from(["traceEvents", "dma", "x", "}", "[", '"']), values, max_size=4) | values
spacings = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n")])


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("json") / "document.json"


class AskForAll(dict[str, object]):
    """Every key is asked for, with any element."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> object:
        return object


def streamed(path: Path, block_bytes: int) -> object:
    """The whole document, put together again."""
    found: dict[str, object] = {}
    with_rows: set[str] = set()
    for key, value in iterate_document(path, AskForAll(), block_bytes=block_bytes):
        if isinstance(value, list) and key in with_rows:
            found[key] += value  # type: ignore[operator]
        else:
            found[key] = value
        if isinstance(value, list):
            with_rows.add(key)
    return found


def read_or_refuse(path: Path, block_bytes: int) -> tuple[object, str]:
    """The document, or what was said when it was refused."""
    try:
        return streamed(path, block_bytes), ""
    except FormatError as error:
        return None, str(error)


def expected(document: object) -> object:
    return document if isinstance(document, dict) else {"": document}


@fuzz
@given(document=documents, spacing=spacings, ascii_only=st.booleans(), bom=st.booleans(), block_bytes=blocks)
def test_every_document_comes_back_as_json_loads_gives_it(target, document, spacing, ascii_only, bom, block_bytes):
    text = json.dumps(document, separators=spacing, ensure_ascii=ascii_only)
    target.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.encode())
    assert streamed(target, block_bytes) == expected(json.loads(text))


@fuzz
@given(
    rows=st.lists(st.dictionaries(awkward, values, max_size=3), min_size=3, max_size=30),
    block_bytes=st.sampled_from([16, 64, 100, 200]),
    packed=st.booleans(),
)
def test_arrays_of_many_blocks_lose_and_repeat_nothing(target, rows, block_bytes, packed):
    text = json.dumps({"before": 1, "rows": rows, "after": [1, 2]}).encode()
    target.write_bytes(gzip.compress(text) if packed else text)
    assert streamed(target, block_bytes) == json.loads(text)


VALID = (
    b'{"a": [{"s": "},{", "n": -1.5e3, "l": [[1, 2], {"x": "\\\\"}]}, {"t": true, "q": "\\"]"}, {}], "k": {"n": null},'
    b' "b": [1, "x", [], {}], "c": [], "d": "\\u00e9"}'
)
UNLIKE = re.compile(rb"NaN|Infinity|\\u[dD][89a-fA-F]|[eE]\+?\d{3}")
"""Where `json.loads` is known to accept more: see the module."""


@fuzz
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 2), st.sampled_from([*b'{}[]",:\\ 0e-tn\n\x00\xff'])),
        max_size=3,
    ),
    cut=st.none() | st.integers(0, len(VALID)),
    block_bytes=blocks,
)
@example(edits=[], cut=None, block_bytes=16)
def test_a_damaged_document_is_read_or_refused_as_json_loads_does(target, edits, cut, block_bytes):
    data = bytearray(VALID)
    for at, what, byte in edits:
        data[at : at + (what != 1)] = b"" if what == 2 else bytes([byte])
    content = bytes(data)[:cut]
    target.write_bytes(content)
    try:
        wanted = expected(json.loads(content.decode("utf-8")))
    except ValueError:
        wanted = None
    found, refusal = read_or_refuse(target, block_bytes)
    if refusal:
        assert refusal.startswith(f"{target}, byte ")
        assert wanted is None or UNLIKE.search(content)
    else:
        assert wanted is not None
        assert found == wanted


@fuzz
@given(content=st.binary(max_size=200), block_bytes=blocks)
def test_any_bytes_are_read_or_refused(target, content, block_bytes):
    target.write_bytes(content)
    found, refusal = read_or_refuse(target, block_bytes)
    if not refusal:
        assert found == expected(json.loads(content.decode("utf-8-sig")))


@fuzz
@given(cut=st.integers(0, 200), at=st.integers(0, 200), byte=st.integers(0, 255))
def test_damaged_gzip_is_read_or_refused(target, cut, at, byte):
    data = bytearray(gzip.compress(VALID, mtime=0))
    data[at % len(data)] = byte
    target.write_bytes(data[: max(cut, 3)])
    found, refusal = read_or_refuse(target, 64)
    assert refusal.startswith(str(target)) if refusal else found == json.loads(VALID)
