"""Reading protocol buffers, on bytes written by hand as the encoding is documented."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.wire import encoded, fields, messages, number, text


def varint(value: int) -> bytes:
    written = b""
    while value > 0x7F:
        written += bytes([value & 0x7F | 0x80])
        value >>= 7
    return written + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def test_the_example_of_the_documentation() -> None:
    assert fields(bytes.fromhex("089601")) == {1: [150]}
    assert fields(bytes.fromhex("120774657374696e67")) == {2: [b"testing"]}


def test_nested_messages_texts_and_numbers() -> None:
    worker = field(1, b"id") + field(3, field(1, b"arm64") + field(2, b"linux")) + field(3, field(1, b"arm"))
    found = fields(worker)
    assert text(found, 1) == "id"
    assert [text(platform, 1) for platform in messages(found, 3)] == ["arm64", "arm"]
    assert (text(found, 9), number(found, 9), messages(found, 9)) == ("", 0, [])


def test_numbers_of_fixed_size_are_passed_over() -> None:
    assert number(fields(b"\x09" + b"x" * 8 + b"\x15" + b"y" * 4 + field(4, 7)), 4) == 7


@pytest.mark.parametrize("torn", [b"\x08", b"\x12\x05ab", b"\x08" + b"\xff" * 11, b"\x0b", b"\x09ab"], ids=bytes.hex)
def test_a_torn_message_is_refused(torn: bytes) -> None:
    with pytest.raises(ValueError, match=r"torn|not in use"):
        fields(torn)


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.one_of(st.integers(0, 2**64 - 1), st.binary()))))
def test_what_was_written_is_read(written: list[tuple[int, int | bytes]]) -> None:
    found = fields(b"".join(field(number, value) for number, value in written))
    assert found == {key: [value for number, value in written if number == key] for key, _ in written}


@given(st.lists(st.tuples(st.integers(1, 15), st.one_of(st.integers(0, 2**63 - 1), st.binary(), st.booleans()))))
def test_what_is_sent_is_encoded_as_documented(sent: list[tuple[int, int | bytes]]) -> None:
    assert encoded(*sent) == b"".join(field(number, value) for number, value in sent)


@given(st.binary())
def test_any_bytes_are_read_or_refused(junk: bytes) -> None:
    with suppress(ValueError):
        fields(junk)
