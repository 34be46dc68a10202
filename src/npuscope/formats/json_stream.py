"""JSON files of any size, with the memory of a few blocks: the elements of top-level arrays, some thousand at a time.

A block is cut behind the last object that seems to be a whole element and decoded by msgspec. A decoder that accepts a
text which begins at an element proves that the cut is right; where it refuses, the brackets and strings of the block
are counted exactly. Accepts what `json.loads` accepts, but for `NaN`, `Infinity` and `-Infinity`, encodings other than
UTF-8, lone surrogates in escapes, nesting deeper than the interpreter's limit, and one element, key or value of more
than `MAX_ELEMENT_BYTES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import GenericAlias
from typing import Any

import msgspec

from npuscope.errors import FormatError
from npuscope.formats.byte_stream import BLOCK_BYTES, ByteStream
from npuscope.formats.json_scan import guess_cut, scan

MAX_ELEMENT_BYTES = 64 << 20
"""The longest element, key or value that is not a top-level array."""
_FIRST_BYTES = 1 << 16
_SPACE = re.compile(rb"[ \t\n\r]*")
_SCALAR = re.compile(rb"[^,\]}\s]*")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BYTE = re.compile(r"\(byte (\d+)\)")
_ELEMENT = re.compile(r" - at `\$\[(\d+)\](.*)`$")
_BOM = b"\xef\xbb\xbf"
_RAW = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder()
_REFUSALS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def iterate_document(
    path: Path, element_types: Mapping[str, Any], *, source: object = None, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[str, Any]]:
    """Read a JSON file in one pass.

    Args:
        path: A file with JSON text, or gzip of it.
        element_types: Per top-level key, the type of one element of its array, as msgspec takes it: a Struct, `dict`,
            `Any`. A file whose top level is an array has the key ''. Arrays under other keys are checked and skipped.
        source: What to call the file in an error; its path if None.
        block_bytes: How much text to decode at once.

    Yields:
        For an array that was asked for: its key and a list of elements, once per block, and once with [] where it is
        empty. For a value that is no array: its key and the value. A key that occurs twice is told twice.

    Raises:
        FormatError: The file is no JSON, ends early, or an element is not of its type; with the byte (of the unpacked
            text) and the key.
    """
    with ByteStream(path, source=source) as stream:
        cursor = _Cursor(stream, block_bytes)
        if cursor.text_at(len(_BOM)) == _BOM:
            cursor.position += len(_BOM)
        first = cursor.skip_space()
        if first == b"":
            raise cursor.error("", expected="JSON", found="an empty file" if not cursor.offset else "only white space")
        if first == b"{":
            yield from _members(cursor, element_types)
        else:
            yield from _value(cursor, "", element_types)
        if cursor.skip_space():
            raise cursor.error("", expected="nothing after the document", found=cursor.glimpse())


def _members(cursor: _Cursor, element_types: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    cursor.position += 1
    if cursor.skip_space() == b"}":
        cursor.position += 1
        return
    while True:
        if cursor.skip_space() != b'"':
            raise cursor.error("", expected="a key in quotes", found=cursor.glimpse())
        key = str(cursor.decode(_ANY, cursor.string_end(), ""))
        if cursor.skip_space() != b":":
            raise cursor.error(key, expected="':'", found=cursor.glimpse())
        cursor.position += 1
        cursor.skip_space()
        yield from _value(cursor, key, element_types)
        if cursor.closes(key, b"}"):
            return


def _value(cursor: _Cursor, key: str, element_types: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    first = cursor.text_at(1)
    if first == b"[":
        wanted = key in element_types
        decoder = msgspec.json.Decoder(GenericAlias(list, (element_types[key],))) if wanted else _RAW
        cursor.position += 1
        for batch in _elements(cursor, key, decoder):
            if wanted:
                yield key, batch
    elif first == b"{":
        yield key, cursor.decode(_ANY, cursor.object_end(key), key)
    elif first == b'"':
        yield key, cursor.decode(_ANY, cursor.string_end(), key)
    else:
        yield key, cursor.decode(_ANY, cursor.scalar_end(), key)


def _elements(cursor: _Cursor, key: str, decoder: msgspec.json.Decoder[Any]) -> Iterator[list[Any]]:
    """The elements of the array whose bracket was just passed, block by block; ends behind its closing bracket."""
    index = 0
    if cursor.skip_space() == b"]":
        cursor.position += 1
        yield []
        return
    while True:
        if cursor.skip_space() in (b"]", b","):
            raise cursor.error(_place(key, index), expected="an element", found=cursor.glimpse())
        batch = _guessed_batch(cursor, key, decoder, index) if index else None
        if batch is None:
            batch = _exact_batch(cursor, key, decoder, index)
        index += len(batch)
        yield batch
        if cursor.closes(_place(key, index), b"]"):
            return


def _guessed_batch(cursor: _Cursor, key: str, decoder: msgspec.json.Decoder[Any], index: int) -> list[Any] | None:
    """The elements up to the guessed cut; None where the guess is wrong."""
    cursor.fill(cursor.block_bytes)
    cut = guess_cut(cursor.text, cursor.position, cursor.reach())
    if cut < 0:
        return None
    try:
        batch = decoder.decode(cursor.as_array(cut))
    except msgspec.ValidationError as error:
        raise _wrong_type(cursor, key, index, str(error)) from error
    except _REFUSALS:
        return None
    cursor.position = cut
    return list(batch)


def _exact_batch(cursor: _Cursor, key: str, decoder: msgspec.json.Decoder[Any], index: int) -> list[Any]:
    """The elements up to the end of the array or the last comma of the block, which grows until it holds one."""
    want = cursor.first_bytes if index == 0 else cursor.block_bytes
    while True:
        more = cursor.fill(want)
        found = scan(cursor.text, cursor.position, cursor.reach(want))
        cut = found.end if found.end >= 0 else int(found.commas[-1]) if found.commas.size else -1
        if cut >= 0:
            break
        if not more or want >= MAX_ELEMENT_BYTES:
            raise cursor.unfinished(_place(key, index), want, b"[")
        want = min(4 * want, MAX_ELEMENT_BYTES)
    try:
        batch = decoder.decode(cursor.as_array(cut))
    except msgspec.ValidationError as error:
        raise _wrong_type(cursor, key, index, str(error)) from error
    except _REFUSALS as error:
        raise cursor.malformed(_place(key, index), error, ahead=1) from error
    cursor.position = cut
    return list(batch)


def _wrong_type(cursor: _Cursor, key: str, index: int, message: str) -> FormatError:
    """An element that is JSON, but not of the type that was asked for; msgspec counts from the start of the block."""
    match = _ELEMENT.search(message)
    number = int(match.group(1)) if match else 0
    text = message[: match.start()] if match else message
    commas = scan(cursor.text, cursor.position, cursor.reach()).commas
    cursor.position = int(commas[number - 1]) + 1 if 0 < number <= commas.size else cursor.position
    cursor.skip_space()
    where = _place(key, index + number) + (match.group(2) if match else "")
    expected, comma, found = text.removeprefix("Expected ").partition(", got ")
    return cursor.error(where, expected=expected if comma else "a valid value", found=found if comma else text)


def _place(key: str, index: int) -> str:
    return f"{key}[{index}]"


class _Cursor:
    """A place in the text of a stream, and the text around it that is in memory."""

    def __init__(self, stream: ByteStream, block_bytes: int) -> None:
        self.stream = stream
        self.block_bytes = block_bytes
        self.first_bytes = min(block_bytes, _FIRST_BYTES)
        self.text = b""
        self.position = 0
        self._done = False

    @property
    def offset(self) -> int:
        """Where in the file (or its unpacked text) the place is."""
        return self.stream.offset - len(self.text) + self.position

    def reach(self, count: int | None = None) -> int:
        """Where the text in memory, or its next `count` bytes, ends."""
        return len(self.text) if count is None else min(len(self.text), self.position + count)

    def fill(self, count: int) -> bool:
        """Have `count` bytes from the place on in memory; False where the file ends before."""
        missing = count - (len(self.text) - self.position)
        if missing > 0 and not self._done:
            parts = [self.text[self.position :]]
            while missing > 0 and not self._done:
                data = self.stream.read(max(missing, self.block_bytes))
                self._done = not data
                missing -= len(data)
                parts.append(data)
            self.text, self.position = b"".join(parts), 0
        return missing <= 0

    def text_at(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        self.fill(count)
        return self.text[self.position : self.position + count]

    def skip_space(self) -> bytes:
        """Pass white space; the byte that follows, b'' at the end."""
        while True:
            match = _SPACE.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text) or not self.fill(1):
                return self.text[self.position : self.position + 1]

    def closes(self, key: str, bracket: bytes) -> bool:
        """Pass a comma (False) or the bracket that closes what is being read (True).

        Raises:
            FormatError: Neither stands here.
        """
        found = self.skip_space()
        if found not in (b",", bracket) or not found:
            raise self.error(key, expected=f"',' or '{bracket.decode()}'", found=self.glimpse())
        self.position += 1
        return found == bracket

    def string_end(self) -> int:
        """Where the string that begins here ends."""
        return self._end_of(_STRING, "a string")

    def scalar_end(self) -> int:
        """Where the number or word that begins here ends."""
        want = self.block_bytes
        while True:
            more = self.fill(want)
            match = _SCALAR.match(self.text, self.position)
            end = match.end() if match else self.position
            if end < len(self.text) or not more:
                return end
            want = self._grown(want, "a value")

    def object_end(self, key: str) -> int:
        """Where the object that begins here ends."""
        want = self.first_bytes
        while True:
            more = self.fill(want)
            end = scan(self.text, self.position + 1, self.reach(want)).end
            if end >= 0:
                return end + 1
            if not more:
                raise self.unfinished(key, want, b"")
            want = self._grown(want, key)

    def _end_of(self, pattern: re.Pattern[bytes], what: str) -> int:
        want = self.first_bytes
        while True:
            more = self.fill(want)
            match = pattern.match(self.text, self.position)
            if match:
                return match.end()
            if not more:
                raise self.error("", expected=f"the end of {what}", found="the end of the file")
            want = self._grown(want, what)

    def _grown(self, want: int, what: str) -> int:
        if want >= MAX_ELEMENT_BYTES:
            raise self.error("", expected=f"{what} of at most {MAX_ELEMENT_BYTES} bytes", found="a longer one")
        return min(4 * want, MAX_ELEMENT_BYTES)

    def as_array(self, end: int) -> bytes:
        """The text from here to `end` in brackets."""
        return b"".join((b"[", memoryview(self.text)[self.position : end], b"]"))

    def decode(self, decoder: msgspec.json.Decoder[Any], end: int, key: str) -> Any:
        """The value from here to `end`, which is passed."""
        try:
            value = decoder.decode(memoryview(self.text)[self.position : end])
        except _REFUSALS as error:
            raise self.malformed(key, error, ahead=0) from error
        self.position = end
        return value

    def glimpse(self) -> str:
        """What stands here, for an error."""
        return repr(self.text_at(24).decode("utf-8", "replace")) if self.text_at(1) else "the end of the file"

    def error(self, key: str, *, expected: str, found: str, at: int | None = None) -> FormatError:
        """An error at this place, or at a byte of the file."""
        place = f"byte {self.offset if at is None else at}"
        if self.stream.is_gzip:
            place = f"unpacked {place}"
        return FormatError(
            self.stream.source, where=f"{place}, key {key!r}" if key else place, expected=expected, found=found
        )

    def malformed(self, key: str, error: Exception, *, ahead: int) -> FormatError:
        """What the decoder refused; it was given `ahead` bytes before the text."""
        if isinstance(error, RecursionError):
            return self.error(key, expected="JSON that is not nested too deeply", found="too many levels")
        if isinstance(error, UnicodeDecodeError):
            return self.not_utf8(key)
        match = _BYTE.search(str(error))
        at = self.offset + max(int(match.group(1)) - ahead, 0) if match else None
        found = _BYTE.sub("", str(error)).removeprefix("JSON is malformed: ").strip()
        return self.error(key, expected="valid JSON", found=found, at=at)

    def not_utf8(self, key: str) -> FormatError:
        """The first byte from here on that is no UTF-8."""
        try:
            self.text[self.position :].decode("utf-8")
        except UnicodeDecodeError as error:
            at = self.offset + error.start
            return self.error(key, expected="text in UTF-8", found=f"byte 0x{error.object[error.start]:02x}", at=at)
        return self.error(key, expected="text in UTF-8", found="other bytes")

    def unfinished(self, key: str, want: int, opening: bytes) -> FormatError:
        """A value that the text in memory does not end: broken before, cut off, or too long."""
        try:
            msgspec.json.decode(opening + self.text[self.position : self.reach(want)], type=msgspec.Raw)
        except _REFUSALS as error:
            if "truncated" not in str(error):
                return self.malformed(key, error, ahead=len(opening))
        if want >= MAX_ELEMENT_BYTES and self.fill(want):
            return self.error(key, expected=f"an element of at most {MAX_ELEMENT_BYTES} bytes", found="a longer one")
        end = self.offset + len(self.text) - self.position
        return self.error(key, expected="the rest of the document", found="the end of the file", at=end)
