"""Values between a program and its checker: what comes out is plain, whatever came in."""

import collections
import datetime
import decimal
import enum
import fractions
import math
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.evaluate.sandbox.codec import MAX_DEPTH, Malformed, decode, encode


def kept(thing: Any) -> tuple[bytes, int]:
    raise AssertionError(f"not plain: {thing!r}")


def fetched(whose: bytes, number: int, kind: str) -> Any:
    raise AssertionError(f"a handle: {whose!r} {number} {kind}")


def there_and_back(value: Any) -> Any:
    return decode(encode(value, kept), fetched)


def same(one: Any, other: Any) -> bool:
    """Equal with the same types all the way down; NaN is NaN, and -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one.hex() == other.hex()
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    return one == other


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
HASHABLE = SCALARS | st.tuples(SCALARS, SCALARS) | st.frozensets(SCALARS, max_size=3)
VALUES = st.recursive(
    SCALARS | st.sets(HASHABLE, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(HASHABLE, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_a_plain_value_comes_back_with_its_types(value: Any) -> None:
    assert same(there_and_back(value), value)


@pytest.mark.parametrize(
    "value",
    [
        10**50,
        -(2**63),
        -1,
        255,
        256,
        -0.0,
        math.inf,
        math.nan,
        "\ud800 half",
        range(1, 10, 3),
        bytearray(b"ab"),
        collections.deque([1, 2], 5),
        collections.OrderedDict(b=1, a=2),
        collections.Counter("hello"),
        decimal.Decimal("1.10"),
        fractions.Fraction(1, 3),
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 1, 2, 3, 4),
        datetime.timedelta(days=-1, microseconds=7),
        datetime.time(1, 2),
        array("d", [1.5, 2.5]),
        int,
        type(None),
        ...,
        NotImplemented,
    ],
    ids=lambda value: hex(value) if type(value) is int else repr(value),
)
def test_other_values_come_back(value: Any) -> None:
    assert same(there_and_back(value), value)


def test_views_of_a_dict_come_back_as_views() -> None:
    table = {1: [2], 3: [4]}
    assert there_and_back(table.keys()) == {1, 3}
    assert list(there_and_back(table.items())) == [(1, [2]), (3, [4])]


class Agreeable(list):
    def __eq__(self, other: object) -> bool:
        return True

    def __iter__(self):
        return iter([1, 2, 3])

    def __len__(self) -> int:
        return 3

    __hash__ = None


class Sly(dict):
    def items(self):
        return {"a": 1}.items()

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None


class Number(int):
    def __int__(self) -> int:
        return 42

    def __index__(self) -> int:
        return 42

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Half(float):
    def __float__(self) -> float:
        return 42.0


class Word(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "other"

    def encode(self, *args: object) -> bytes:
        return b"other"


class Colour(enum.IntEnum):
    RED = 3


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Agreeable([7]), [7]),
        (Sly(b=2), {"b": 2}),
        (Number(5), 5),
        (Half(0.5), 0.5),
        (Word("mine"), "mine"),
        (Colour.RED, 3),
        (Point(1, 2), (1, 2)),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_subclass_is_reduced_to_what_it_holds(value: Any, plain: Any) -> None:
    back = there_and_back([value])[0]
    assert type(back) is type(plain)
    assert repr(back) == repr(plain)


def test_what_is_not_plain_becomes_a_number() -> None:
    things: list[Any] = []

    def keep(thing: Any) -> tuple[bytes, int]:
        things.append(thing)
        return b"H", len(things) - 1

    data = encode(
        [1, len, (x for x in "ab"), {"f": test_a_subclass_is_reduced_to_what_it_holds}], keep
    )
    seen: list[tuple[bytes, int, str]] = []
    decode(data, lambda *what: seen.append(what))
    assert seen == [
        (b"H", 0, "builtin_function_or_method"),
        (b"H", 1, "generator"),
        (b"H", 2, "function"),
    ]
    assert things[0] is len


def test_a_list_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(Malformed, match="deep"):
        encode(loop, kept)


def test_the_deepest_value_comes_back_and_a_deeper_one_is_refused() -> None:
    value: Any = []
    for _ in range(MAX_DEPTH):
        value = [value]
    data = encode(value, kept)
    assert same(decode(data, fetched), value)
    with pytest.raises(Malformed, match="deep"):
        encode([value], kept)
    with pytest.raises(Malformed, match="deep"):
        decode(b"L\x01\0\0\0" + data, fetched)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"?",
        b"NN",
        b"I",
        b"I\xff\xff\xff\xff",
        b"L\xff\xff\xff\xffN",
        b"M\xff\xff\xff\xffN",
        b"D123",
        b"S\x02\0\0\0\xff\xfe",
        b"E\x01\0\0\0L\0\0\0\0",
        b"M\x01\0\0\0L\0\0\0\0N",
        b"RNNN",
        b"RI\x01\0\0\0\x01I\x01\0\0\0\x01I\x01\0\0\0\x00",
        b"V\x04\0\0\0exec",
        b"Y\x04\0\0\0open",
        b"K\x05\0\0\0deque" + b"U\x01\0\0\0R" + 3 * b"I\x01\0\0\0\x7f",
        b"K\x05\0\0\0dequeN",
        b"K\x07\0\0\0Decimal" + b"U\x01\0\0\0S\x02\0\0\0no",
        b"K\x04\0\0\0exec" + b"U\0\0\0\0",
        b"H\x01\0",
        b"L\x01\0\0\0" * 5000 + b"N",
    ],
)
def test_bytes_that_are_no_value_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data, fetched)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_plain_value_or_refused(data: bytes) -> None:
    try:
        value = decode(data, lambda whose, number, kind: None)
    except Malformed:
        return
    assert type(value).__module__ in {
        *("builtins", "collections", "datetime", "decimal", "fractions", "array"),
    }


@given(VALUES, st.data())
def test_a_value_with_a_byte_changed_is_a_plain_value_or_refused(
    value: Any, data: st.DataObject
) -> None:
    whole = bytearray(encode(value, kept))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(whole), lambda whose, number, kind: None)
    except Malformed:
        return


@pytest.mark.parametrize("tag", [b"L", b"U", b"M", b"E", b"Z"])
def test_more_items_than_bytes_are_refused_before_any_is_read(tag: bytes) -> None:
    with pytest.raises(Malformed, match="more items than bytes"):
        decode(tag + b"\xff\xff\xff\x7f" + b"N" * 100, fetched)
