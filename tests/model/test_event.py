# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING

import pytest

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.model.event import (
    LAST,
    MAX_DEPTH,
    parse_event,
    parse_key,
    parse_large_event,
    parse_precondition,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "c0rrect-horse"


def code_of(parse: Callable[..., object], argument: object) -> str:
    with pytest.raises(Problem) as caught:
        parse(argument)
    assert caught.value.outcome is Outcome.NOT_STORED
    assert SECRET not in repr(caught.value.document())
    assert SECRET not in repr(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.cause.code


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not json " + SECRET.encode(), id="no JSON"),
        pytest.param(f'["{SECRET}"]'.encode(), id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b"1", id="number"),
        pytest.param(b'"base"', id="string"),
        pytest.param(b'{"evcategory": "base"', id="cut short"),
        pytest.param(b'{"evcategory": "base"} {}', id="two documents"),
        pytest.param(b'{"evcategory": "base", "x": "\xff"}', id="no UTF-8"),
        pytest.param(b'\xef\xbb\xbf{"evcategory": "base"}', id="byte order mark"),
        pytest.param('{"evcategory": "base"}'.encode("utf-16"), id="UTF-16"),
        pytest.param(
            b'{"evcategory": "base", "a": ' + b"9" * 100_000 + b"}", id="long integer"
        ),
    ],
)
def test_what_is_no_json_object_in_utf8_is_malformed(body: bytes) -> None:
    assert code_of(parse_event, body) == "malformed_json"


def nested(levels: int, start: str = "[", end: str = "]") -> bytes:
    inner = start * (levels - 1) + end * (levels - 1)
    wide = "[], " * MAX_DEPTH  # as many brackets as need a look
    return f'{{"evcategory": "base", "w": [{wide}0], "a": {inner}}}'.encode()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (nested(MAX_DEPTH), None),
        (nested(MAX_DEPTH + 1), "too_deep"),
        (nested(500), "too_deep"),
        (nested(5000), "too_deep"),
        (b'{"evcategory": "base", "a": "' + b"[" * 5000 + b'"}', None),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep"),
        (b'{"evcategory": "base", "a": ' + b"[" * 100_000, "too_deep"),
        (b'{"evcategory": "base", "a": ' + b'{"a":' * 100 + b"1" + b"}" * 101, "deep"),
    ],
    ids=["most", "one more", "a half", "all", "text", "objects", "arrays", "mixed"],
)
def test_what_a_reader_could_not_nest_is_refused_with_the_figure(
    body: bytes, code: str | None
) -> None:
    if code is None:
        assert parse_event(body).category == "base"
        return
    with pytest.raises(Problem) as caught:
        parse_event(body)
    assert caught.value.cause is errors.TOO_DEEP
    assert caught.value.members == {"depth_limit": MAX_DEPTH}


@pytest.mark.parametrize(
    "category",
    [
        "",
        "a.b",
        "*",
        ">",
        "a b",
        "a\n",
        "\n",
        "a" * 65,
        "é",
        "\u0661",
        "a\u0000",
        None,
        1,
        True,
        ["base"],
        {"a": 1},
        SECRET + "!",
    ],
)
def test_a_category_that_is_no_plain_name_is_illegal(category: object) -> None:
    body = json.dumps({"evcategory": category}).encode()
    assert code_of(parse_event, body) == "illegal_category"


def test_an_event_without_category_is_illegal() -> None:
    assert code_of(parse_event, b"{}") == "illegal_category"


@pytest.mark.parametrize("category", ["base", "initsync", "A-b_9", "a" * 64, "-", "_"])
def test_a_plain_name_of_up_to_64_characters_is_a_category(category: str) -> None:
    body = json.dumps({"evcategory": category}).encode()
    assert parse_event(body).category == category


@pytest.mark.parametrize(
    "body",
    [
        b'{"evcategory": "base", "a": NaN, "b": -Infinity}',
        b'{"evcategory": "base", "a": "\\ud800"}',
        b'{"evcategory": "base", "a": 1, "a": 2}',
        b'  {\n"evcategory"\t: "base" }\r\n',
        '{"evcategory": "base", "a": "Zoé"}'.encode(),
        b'{"evcategory": "\\u0062ase"}',
    ],
)
def test_what_python_accepts_as_json_is_kept_byte_for_byte(body: bytes) -> None:
    event = parse_event(body)
    assert (event.category, event.body) == ("base", body)


CATEGORIES = {
    "plain": '{"evcategory": "base"}',
    "twice": '{"evcategory": "initsync", "evcategory": "base"}',
    "twice, legal first": '{"evcategory": "base", "evcategory": "a b"}',
    "twice, then null": '{"evcategory": "base", "evcategory": null}',
    "escaped value": '{"evcategory": "\\u0062ase"}',
    "escaped key": '{"\\u0065vcategory": "base"}',
    "escaped key, too": '{"evcategory": "initsync", "\\u0065vcategory": "base"}',
    "escaped key first": '{"\\u0065vcategory": "initsync", "evcategory": "base"}',
    "other case": '{"EvCategory": "base"}',
    "space in the key": '{"evcategory ": "base"}',
    "deeper": '{"x": {"evcategory": "base"}}',
    "deeper, too": '{"evcategory": "base", "x": {"evcategory": "initsync"}}',
    "in a text": '{"x": "\\"evcategory\\": \\"base\\"", "evcategory": "initsync"}',
    "in a list": '[{"evcategory": "base"}]',
    "byte order mark": '\ufeff{"evcategory": "base"}',
    "NUL in the key": '{"evcategory\\u0000": "base"}',
    "NUL in the value": '{"evcategory": "base\\u0000"}',
    "half a character": '{"evcategory": "base\\ud800"}',
    "half a character elsewhere": '{"evcategory": "base", "x": "\\udfff"}',
    "half a key": '{"evcategory": "base", "\\ud83d": 1}',
    "two halves": '{"evcategory": "base", "x": "\\ud83d\\ude00"}',
    "line end": '{"evcategory": "base\\n"}',
    "raw line end": '{"evcategory": "base\n"}',
    "comment": '{"evcategory": "base" /* x */}',
    "comma at the end": '{"evcategory": "base",}',
    "single quotes": "{'evcategory': 'base'}",
    "after it": '{"evcategory": "base"} {"evcategory": "initsync"}',
    "NaN": '{"evcategory": "base", "x": NaN}',
    "white space": ' \t\r\n{ "evcategory"\t:\r\n"base" } ',
    "no-break space": '\u00a0{"evcategory": "base"}',
}


@pytest.mark.usefixtures("hermes_home")
@pytest.mark.parametrize("text", CATEGORIES.values(), ids=CATEGORIES)
def test_an_event_is_of_the_category_that_hermes_reads(text: str) -> None:
    event_class = importlib.import_module("lib.datamodel.event").Event
    try:
        read = event_class.from_json(text).evcategory
    except (ValueError, TypeError, AttributeError, KeyError):
        read = None
    legal = read if read in ("base", "initsync") else None
    for parse in (parse_event, parse_large_event):
        try:
            assert parse(text.encode()).category == legal
        except Problem:
            assert legal is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("added", "added"),
        ("init-start", "init-start"),
        (None, None),
        (SECRET + "\r\nNats-Rollup: all", None),
        ("a b", None),
        ("é", None),
        (["added"], None),
        (7, None),
    ],
)
def test_types_are_kept_only_where_they_are_plain_names(
    value: object, shown: str | None
) -> None:
    document = {"evcategory": "base", "eventtype": value, "objtype": value}
    event = parse_event(json.dumps(document).encode())
    assert (event.type, event.object_type) == (shown, shown)


def test_an_event_shows_nothing_of_its_body() -> None:
    body = json.dumps({"evcategory": "base", "password": SECRET}).encode()
    event = parse_event(body)
    assert SECRET not in repr(event)
    assert SECRET not in str(event)


@pytest.mark.parametrize("key", ["a", "0", "A.b_c:d-e", "x" * 128])
def test_a_key_is_accepted_plain_and_quoted(key: str) -> None:
    assert parse_key(key) == key
    assert parse_key(f'"{key}"') == key


@pytest.mark.parametrize(
    "header",
    [
        "",
        '""',
        "x" * 129,
        "a b",
        "a\n",
        "é",
        "a,b",
        SECRET + "é",
        "a/b",
        "'a'",
        "\u0661",
    ],
)
def test_a_key_of_other_characters_is_malformed(header: str) -> None:
    assert code_of(parse_key, header) == "malformed_key"


def test_a_missing_key_is_asked_for() -> None:
    assert code_of(parse_key, None) == "no_key"


@pytest.mark.parametrize(
    ("header", "last"),
    [
        ('"0"', 0),
        ('"7"', 7),
        ('"1795427233892"', 1_795_427_233_892),
        ('"9007199254740991"', 2**53 - 1),
        ("*", LAST),
    ],
)
def test_if_match_is_a_quoted_offset_or_a_star(header: str, last: int | str) -> None:
    assert parse_precondition(header) == last


@pytest.mark.parametrize(
    "header",
    [
        "",
        "7",
        "'7'",
        '"7',
        '""',
        '"-1"',
        '"+1"',
        '"07"',
        '"1.0"',
        '"1" ',
        '"1", "2"',
        'W/"7"',
        '"*"',
        '"\u0661"',
        '"9007199254740992"',
        '"9223372036854775807"',
        '"99999999999999999999"',
        "**",
        f'"{SECRET}"',
    ],
)
def test_any_other_if_match_is_malformed(header: str) -> None:
    assert code_of(parse_precondition, header) == "malformed_precondition"


def test_a_missing_if_match_is_required() -> None:
    assert code_of(parse_precondition, None) == "precondition_required"
