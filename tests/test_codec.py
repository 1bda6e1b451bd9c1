from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt import codec

any_text = st.text(alphabet=st.characters(codec=None, min_codepoint=0, max_codepoint=0x10FFFF))  # surrogates too
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_whatever_python_can_say_can_be_written_and_read_back(value: object) -> None:
    assert codec.loads(codec.dumps(value)) == codec.loads(codec.dumps(codec.loads(codec.dumps(value))))


@given(any_text)
def test_text_comes_back_with_only_lone_surrogates_replaced(text: str) -> None:
    back = codec.loads(codec.dumps({"text": text}))["text"]
    assert back == codec.clean(text)
    assert len(back) <= len(text)


@given(st.binary(max_size=200))
def test_reading_raises_nothing_but_its_own_error(data: bytes) -> None:
    try:
        codec.loads(data)
    except codec.CodecError:
        pass


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (rb'"\ud800"', "\ufffd"),
        (rb'"\ud83d\ude00"', "😀"),
        (rb'{"a": "x\udc00y"}', {"a": "x\ufffdy"}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'"\xff"', "\ufffd"),
    ],
)
def test_what_orjson_refuses_is_repaired(data: bytes, value: object) -> None:
    assert codec.loads(data) == value


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b"[Infinity]", b"1 2", b"[" * 100_000, b"\x00", b"<html>"])
def test_what_is_no_json_is_a_codec_error(data: bytes) -> None:
    with pytest.raises(codec.CodecError):
        codec.loads(data)


@given(any_text)
def test_printable_text_is_one_short_line_without_control_characters(text: str) -> None:
    line = codec.printable(text, 50)
    assert len(line) <= 50
    assert line.isprintable()


def test_terminal_codes_do_not_survive() -> None:
    assert codec.printable("a\x1b[2J\u202eb\n\tc\u200b") == "a [2J b c"
