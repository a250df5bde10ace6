"""Plain values as bytes and back, between a program under test and its checker.

What comes out of `decode` is of an exact built-in type (or one of a few containers and numbers of
the standard library, built here from plain parts), so nothing of the sender's own code is ever
called: a list whose `__eq__` always says yes arrives as a list. What is not plain is handed to
`keep`, which gives a number for it, and `fetch` turns numbers back into something on the other
side. There is no pickle, no marshal, no eval. Sent values are trees: a list that holds itself is
too deep.

Self-contained, standard library only: its text is run inside the sandbox. A value is refused
(`Malformed`) beyond MAX_BYTES or MAX_DEPTH, or when it is not one value and nothing else; decoding
takes at most about 15 times the memory of the bytes.
"""

import struct

MAX_BYTES = 16 << 20
MAX_DEPTH = 200

_COUNT = struct.Struct("<I")
_FLOAT = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")

_SYMBOLS = {None: b"N", True: b"T", False: b"F"}
_TYPES = {
    kind.__name__: kind
    for kind in (
        *(bool, bytearray, bytes, complex, dict, float, frozenset, int, list, object, range),
        *(set, str, tuple, type, type(None), type(...), type(NotImplemented)),
    )
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_VALUES = {"...": ..., "NotImplemented": NotImplemented}


class Malformed(Exception):
    """Bytes that are no value, or a value that is too large or too deep to be sent."""


def encode(value, keep):
    """The value as bytes; `keep(thing)` gives (whose, number) of what is not plain.

    `whose` is b"H" for the sender's own things and b"P" for the receiver's, sent back.
    """
    out = []
    _put(value, keep, out, 0)
    data = b"".join(out)
    if len(data) > MAX_BYTES:
        raise Malformed(f"a value of {len(data)} bytes; at most {MAX_BYTES} are sent")
    return data


def decode(data, fetch):
    """The value of these bytes; `fetch(whose, number, name)` gives what is not plain."""
    reader = _Reader(data, fetch)
    try:
        value = reader.value(0)
    except (struct.error, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None
    if reader.at != len(data):
        raise Malformed(f"{len(data) - reader.at} bytes after the value")
    return value


def _sized(tag, data):
    return tag + _COUNT.pack(len(data)) + data


def _put(value, keep, out, depth):
    if depth > MAX_DEPTH:
        raise Malformed(f"nested more than {MAX_DEPTH} deep")
    kind = type(value)
    if kind is bool or value is None:
        out.append(_SYMBOLS[value])
        return
    put = _PUT.get(kind)
    if put is None:
        put = next((_PUT[base] for base in kind.__mro__ if base in _BASES), None)
        special = _SPECIAL.get((kind.__module__, kind.__qualname__))
        if special is not None:
            parts = special[0](value)
            if parts is not None:
                out.append(_sized(b"K", kind.__qualname__.encode()))
                _put(parts, keep, out, depth + 1)
                return
    if put is not None:
        put(value, keep, out, depth)
        return
    if value is ... or value is NotImplemented:
        out.append(_sized(b"V", b"..." if value is ... else b"NotImplemented"))
    elif kind is type and value in _NAMES:
        out.append(_sized(b"Y", _NAMES[value].encode()))
    else:
        whose, number = keep(value)
        name = str.__str__(kind.__name__)[:100].encode("utf-8", "replace")
        out.append(whose + _COUNT.pack(number) + _sized(b"", name))


def _put_int(value, keep, out, depth):
    value = int.__int__(value)
    out.append(_sized(b"I", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)))


def _put_float(value, keep, out, depth):
    out.append(b"D" + _FLOAT.pack(float.__float__(value)))


def _put_complex(value, keep, out, depth):
    value = complex.__complex__(value)
    out.append(b"C" + _COMPLEX.pack(value.real, value.imag))


def _put_str(value, keep, out, depth):
    out.append(_sized(b"S", str.encode(value, "utf-8", "surrogatepass")))


def _put_bytes(value, keep, out, depth):
    out.append(_sized(b"B", bytes.__getitem__(value, slice(None))))


def _put_bytearray(value, keep, out, depth):
    out.append(_sized(b"A", bytes(bytearray.__getitem__(value, slice(None)))))


def _put_range(value, keep, out, depth):
    out.append(b"R")
    for part in (value.start, value.stop, value.step):
        _put_int(part, keep, out, depth)


def _many(tag, kind):
    """How a container is put: its items by the base class's own methods."""

    def put(value, keep, out, depth):
        items = list(kind.__iter__(value))
        out.append(tag + _COUNT.pack(len(items)))
        if kind is dict:
            items = [part for pair in dict.items(value) for part in pair]
        for item in items:
            _put(item, keep, out, depth + 1)

    return put


_PUT = {
    int: _put_int,
    float: _put_float,
    complex: _put_complex,
    str: _put_str,
    bytes: _put_bytes,
    bytearray: _put_bytearray,
    range: _put_range,
    list: _many(b"L", list),
    tuple: _many(b"U", tuple),
    dict: _many(b"M", dict),
    set: _many(b"E", set),
    frozenset: _many(b"Z", frozenset),
}
_BASES = frozenset(_PUT)


def _made(module, name):
    """How one of the standard library's types is built again from its parts."""

    def make(*parts):
        return getattr(__import__(module), name)(*parts)

    return make


def _naive(moment, *fields):
    """The fields, or None for a moment with a time zone: that one is not plain."""
    return None if moment.tzinfo else tuple(getattr(moment, field) for field in fields)


_DAY = ("year", "month", "day")
_HOUR = ("hour", "minute", "second", "microsecond")
_NONE = type(None)
# Type -> its parts, what builds it from them, and the types these parts must have.
_SPECIAL = {
    ("collections", "deque"): (
        lambda d: ([*d], d.maxlen),
        _made("collections", "deque"),
        [(list, int), (list, _NONE)],
    ),
    ("collections", "OrderedDict"): (
        lambda d: ({**d},),
        _made("collections", "OrderedDict"),
        [(dict,)],
    ),
    ("collections", "Counter"): (
        lambda d: ({**d},),
        _made("collections", "Counter"),
        [(dict,)],
    ),
    ("builtins", "dict_keys"): (
        lambda keys: (dict.fromkeys(keys),),
        dict.keys,
        [(dict,)],
    ),
    ("builtins", "dict_items"): (
        lambda items: (dict(items),),
        dict.items,
        [(dict,)],
    ),
    ("decimal", "Decimal"): (
        lambda d: (str(d),),
        _made("decimal", "Decimal"),
        [(str,)],
    ),
    ("fractions", "Fraction"): (
        lambda f: (f.numerator, f.denominator),
        _made("fractions", "Fraction"),
        [(int, int)],
    ),
    ("datetime", "date"): (
        lambda d: (d.year, d.month, d.day),
        _made("datetime", "date"),
        [(int,) * 3],
    ),
    ("datetime", "datetime"): (
        lambda d: _naive(d, *_DAY, *_HOUR),
        _made("datetime", "datetime"),
        [(int,) * 7],
    ),
    ("datetime", "time"): (
        lambda t: _naive(t, *_HOUR),
        _made("datetime", "time"),
        [(int,) * 4],
    ),
    ("datetime", "timedelta"): (
        lambda t: (t.days, t.seconds, t.microseconds),
        _made("datetime", "timedelta"),
        [(int,) * 3],
    ),
    ("array", "array"): (
        lambda a: (a.typecode, a.tolist()),
        _made("array", "array"),
        [(str, list)],
    ),
}
_MAKE = {name: rest for (_, name), (_, *rest) in _SPECIAL.items()}


class _Reader:
    def __init__(self, data, fetch):
        self.data = data
        self.fetch = fetch
        self.at = 0

    def take(self, size):
        end = self.at + size
        if end > len(self.data):
            raise Malformed("the bytes end inside a value")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def count(self):
        return _COUNT.unpack(self.take(4))[0]

    def sized(self):
        return self.take(self.count())

    def items(self, number, depth):
        """So many values; a number that the bytes cannot hold is refused at once."""
        if number > len(self.data) - self.at:
            raise Malformed("more items than bytes")
        return [self.value(depth + 1) for _ in range(number)]

    def value(self, depth):
        if depth > MAX_DEPTH:
            raise Malformed(f"nested more than {MAX_DEPTH} deep")
        tag = self.take(1)
        match tag:
            case b"N":
                return None
            case b"T":
                return True
            case b"F":
                return False
            case b"I":
                return int.from_bytes(self.sized(), "little", signed=True)
            case b"D":
                return _FLOAT.unpack(self.take(8))[0]
            case b"S":
                return self.sized().decode("utf-8", "surrogatepass")
            case b"L":
                return self.items(self.count(), depth)
            case b"U":
                return tuple(self.items(self.count(), depth))
            case b"M":
                items = self.items(2 * self.count(), depth)
                return dict(zip(items[::2], items[1::2], strict=True))
            case b"E":
                return set(self.items(self.count(), depth))
            case b"Z":
                return frozenset(self.items(self.count(), depth))
        return self.rare(tag, depth)

    def rare(self, tag, depth):
        match tag:
            case b"B":
                return self.sized()
            case b"A":
                return bytearray(self.sized())
            case b"C":
                return complex(*_COMPLEX.unpack(self.take(16)))
            case b"R":
                parts = [self.value(depth + 1) for _ in range(3)]
                return range(*parts)
            case b"V":
                return _known(_VALUES, self.sized())
            case b"Y":
                return _known(_TYPES, self.sized())
            case b"K":
                make, wanted = _known(_MAKE, self.sized())
                parts = self.value(depth + 1)
                if type(parts) is not tuple or tuple(map(type, parts)) not in wanted:
                    raise Malformed("parts of the wrong types")
                return make(*parts)
            case b"H" | b"P":
                number = self.count()
                return self.fetch(tag, number, self.sized().decode("utf-8", "replace")[:100])
        raise Malformed(f"no value begins with {tag!r}")


def _known(table, name):
    word = name.decode("ascii", "replace")
    if word not in table:
        raise Malformed(f"no such name: {word[:40]!r}")
    return table[word]
