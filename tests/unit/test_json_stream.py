"""Facts about streamed JSON: places in errors, limits, types; that it equals `json.loads` is for the fuzz tests."""

import gzip
import json
import tracemalloc

import msgspec
import pytest

from npuscope.errors import FormatError
from npuscope.formats import byte_stream, json_stream
from npuscope.formats.json_stream import iterate_document


class Row(msgspec.Struct):
    pc: int
    name: str = ""


@pytest.fixture
def target(tmp_path):
    return tmp_path / "document.json"


def read(path, types, **options):
    return list(iterate_document(path, types, **options))


def refusal(path, types=(), **options):
    with pytest.raises(FormatError) as caught:
        read(path, dict(types), **options)
    return str(caught.value).removeprefix(f"{path}, ").removeprefix(f"{path}: ")


def test_arrays_come_typed_and_other_values_as_they_are(target):
    target.write_text('{"version": 8, "rows": [{"pc": 1}, {"pc": 2, "name": "x"}], "skipped": [1, 2], "o": {"k": [3]}}')
    assert read(target, {"rows": Row}) == [("version", 8), ("rows", [Row(1), Row(2, "x")]), ("o", {"k": [3]})]


def test_an_empty_array_is_told_once(target):
    target.write_text('{"rows": [ ], "other": []}')
    assert read(target, {"rows": Row}) == [("rows", [])]


def test_an_array_at_the_top_has_the_key_empty_text(target):
    target.write_text('\ufeff [{"pc": 5}] \n')
    assert read(target, {"": Row}) == [("", [Row(5)])]


def test_a_key_that_occurs_twice_is_told_twice(target):
    target.write_text('{"a": 1, "a": [2], "a": {"b": 3, "b": 4}}')
    assert read(target, {"a": int}) == [("a", 1), ("a", [2]), ("a", {"b": 4})]


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_a_wrong_type_names_the_byte_and_the_element(target, block_bytes):
    rows = [{"pc": number, "name": "}, {"} for number in range(40)]
    rows[33]["pc"] = "thirty"
    text = json.dumps({"rows": rows})
    target.write_text(text)
    place = text.index('{"pc": "thirty"')
    told = refusal(target, {"rows": Row}, block_bytes=block_bytes)
    assert told == f"byte {place}, key 'rows[33].pc': expected `int`, found `str`"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected JSON, found an empty file"),
        (" \n ", "expected JSON, found only white space"),
        ('{"a": [1, 2', "byte 11, key 'a[1]': expected the rest of the document, found the end of the file"),
        ('{"a": [1, 2]', "byte 12, key 'a': expected ',' or '}', found the end of the file"),
        ('{"a": [1,, 2]}', "byte 9, key 'a[0]': expected valid JSON, found invalid character"),
        ('{"a": [1, tru]}', "byte 14, key 'a[0]': expected valid JSON, found invalid character"),
        ('{"a": [1,]}', "byte 9, key 'a[0]'"),
        ('{"a": [{"x": 1}] "b": 2}', "byte 17"),
        ('{"a": 1,}', "byte 8: expected a key in quotes, found '}'"),
        ('{"a" 1}', "byte 5, key 'a': expected ':', found '1}'"),
        ('{"a": 1} x', "byte 9: expected nothing after the document, found 'x'"),
        ('{"a": NaN}', "byte 6, key 'a': expected valid JSON"),
        ('{"a": [1, Infinity]}', "byte 10, key 'a[0]'"),
        ('{"a": "x', "expected the end of a string, found the end of the file"),
        ('{"a": {"b": 1}', "byte 14, key 'a': expected ',' or '}', found the end of the file"),
        ('{"a": {"b": 1', "byte 13, key 'a': expected the rest of the document, found the end of the file"),
    ],
)
def test_what_is_no_json_is_refused_with_the_byte(target, text, told):
    target.write_text(text)
    assert told in refusal(target, {"a": object})


def test_text_that_is_not_utf8_is_refused_with_its_byte(target):
    target.write_bytes(b'{"a": [{"b": "x"}, {"b": "\xff"}]}')
    assert refusal(target, {"a": object}) == "byte 26, key 'a[0]': expected text in UTF-8, found byte 0xff"


def test_nesting_beyond_the_interpreters_limit_is_refused(target):
    target.write_text('{"a": [' + "[" * 100_000 + "]" * 100_000 + "]}")
    assert "nested too deeply" in refusal(target, {"a": object})
    target.write_text('{"a": ' + '{"b":' * 100_000 + "1" + "}" * 100_000 + "}")
    assert "nested too deeply" in refusal(target)


def test_an_element_longer_than_the_limit_is_refused(target, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_ELEMENT_BYTES", 1 << 12)
    target.write_text('{"a": [{"x": "' + "y" * (1 << 14) + '"}], "b": 1}')
    assert "expected an element of at most 4096 bytes" in refusal(target, {"a": object}, block_bytes=256)
    target.write_text('{"' + "k" * (1 << 14) + '": 1}')
    assert "at most 4096 bytes" in refusal(target, block_bytes=256)


def test_gzip_that_unpacks_beyond_all_measure_is_refused(target, monkeypatch):
    monkeypatch.setattr(byte_stream, "_FREE_BYTES", 1 << 20)
    target.write_bytes(gzip.compress(b"[" + b" " * (8 << 20) + b"1]"))
    assert "gzip that unpacks to at most 100 times its size" in refusal(target)


def test_gzip_that_is_cut_off_is_refused(target):
    target.write_bytes(gzip.compress(b'{"a": [1, 2, 3]}')[:-6])
    assert "expected gzip data" in refusal(target, {"a": int})


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    assert refusal(tmp_path) == "expected a file, found a folder"
    assert refusal(tmp_path / "none.json") == "expected a file, found no such file"


def test_memory_stays_at_some_blocks_whatever_the_size(target):
    row = json.dumps({"pc": 1, "name": "x" * 50})
    target.write_text('{"rows": [' + ",".join([row] * 60_000) + "]}")
    size = target.stat().st_size
    tracemalloc.start()
    count = sum(len(rows) for _, rows in iterate_document(target, {"rows": Row}, block_bytes=1 << 14))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60_000
    assert peak < size / 4


def test_many_small_arrays_take_linear_time(target):
    """Each is scanned as far as it reaches, not a block at a time."""
    target.write_text("{" + ",".join(f'"k{number}": [1]' for number in range(5_000)) + "}")
    assert len(read(target, {f"k{number}": int for number in range(5_000)})) == 5_000
