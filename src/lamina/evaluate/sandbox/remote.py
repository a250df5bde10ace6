"""Two processes that call each other: a program under test here, its checker there.

Either side asks the other one thing at a time by a socket: look up a name, call, iterate, read an
attribute. Plain values are copied (`codec`); anything else stays where it is and is a `Remote` on
the other side, whose calls and items are forwarded and which equals nothing but itself. An error of
the other side comes out as the same built-in exception.

The checker answers calls of the functions it handed out and nothing else, so the program never sees
a test, a frame of it, or its names. Self-contained with `codec`, standard library only.
"""

import builtins
import os

from lamina.evaluate.sandbox.codec import MAX_BYTES, Malformed, decode, encode

_ERRORS = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}


class Gone(BaseException):
    """The other side ended, or says things that are no answer: no test can go on."""


class Remote:
    """Something that is not plain and lives in the other process."""

    __slots__ = ("_kind", "_number", "_peer")

    def __init__(self, peer, number, kind):
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_kind", kind)

    def __eq__(self, other):
        if self is not other:
            self._peer.compared.add(self._kind)
        return self is other

    def __hash__(self):
        return self._number

    def __call__(self, *args, **named):
        return self._peer.ask("call", self._number, args, named)

    def __getattr__(self, name):
        return self._peer.ask("attr", self._number, name)

    def __setattr__(self, name, value):
        self._peer.ask("set attr", self._number, name, value)

    def __delattr__(self, name):
        self._peer.ask("del attr", self._number, name)

    def __iter__(self):
        return self._peer.ask("iter", self._number)

    def __next__(self):
        return self._peer.ask("next", self._number)

    def __contains__(self, item):
        return any(item is other or item == other for other in self)

    def __len__(self):
        return self._peer.ask("len", self._number)

    def __getitem__(self, key):
        return self._peer.ask("item", self._number, key)

    def __setitem__(self, key, value):
        self._peer.ask("set item", self._number, key, value)

    def __delitem__(self, key):
        self._peer.ask("del item", self._number, key)

    def __bool__(self):
        return self._peer.ask("bool", self._number)

    def __str__(self):
        return self._peer.ask("str", self._number)

    def __repr__(self):
        return self._peer.ask("repr", self._number)


def _set_item(thing, key, value):
    thing[key] = value


def _del_item(thing, key):
    del thing[key]


# What one side may ask of a thing of the other.
DEEDS = {
    "call": lambda thing, args, named: thing(*args, **named),
    "attr": getattr,
    "set attr": setattr,
    "del attr": delattr,
    "iter": iter,
    "next": next,
    "len": len,
    "item": lambda thing, key: thing[key],
    "set item": _set_item,
    "del item": _del_item,
    "bool": bool,
    "str": str,
    "repr": repr,
}
CALLS = {"call": DEEDS["call"]}


class Peer:
    """One end of the socket `fd`; `deeds` are what it does when asked, with `names` to look up."""

    def __init__(self, fd, deeds, names=None):
        self.fd = fd
        self.deeds = deeds
        self.names = names
        self.mine = []
        self.numbers = {}
        self.theirs = {}
        self.compared = set()
        """Kinds of remote things that were found unequal, since they are not plain."""
        self.gone = None
        """Why no more can be asked."""

    def ask(self, *request):
        """What the other side gives; its error is raised here. It may ask in turn meanwhile."""
        if self.gone is not None:
            raise Gone(self.gone)
        self.write(encode(("ask", *request), self._keep))
        try:
            return self.read()
        except StopIteration as error:
            if request[0] == "next":
                raise
            # As in a generator: `all(map(test, cases))` would take it for the end of the cases.
            raise RuntimeError("the program raised StopIteration") from error

    def read(self):
        """What the other side gives; what it asks before that is answered."""
        while True:
            match self._message():
                case ("value", value):
                    return value
                case ("error", str(name), tuple(args)):
                    raise _error(name, args)
                case ("ask", str(deed), *args):
                    self.write(self._answer(deed, args))
                case _:
                    self._end("what came back is no answer")

    def value(self, value):
        """A message that holds a value."""
        return encode(("value", value), self._keep)

    def error(self, error):
        """A message that holds an error, as the nearest built-in exception."""
        kind = next((k for k in type(error).__mro__ if _ERRORS.get(k.__name__) is k), Exception)
        try:
            return encode(("error", kind.__name__, tuple(error.args)), self._keep)
        except Exception:
            return encode(("error", kind.__name__, ()), self._keep)

    def _answer(self, deed, args):
        try:
            return self.value(self._do(deed, *args))
        except Gone:
            raise
        except BaseException as error:
            return self.error(error)

    def _do(self, deed, *args):
        if deed == "look up" and self.names is not None:
            (name,) = args
            if name not in self.names:
                raise NameError(f"name {name!r} is not defined")
            return self.names[name]
        if deed not in self.deeds:
            self._end(f"asked for {deed[:20]!r}")
        number, *rest = args
        return self.deeds[deed](self.mine[number], *rest)

    def _keep(self, thing):
        if type(thing) is Remote and thing._peer is self:
            return b"P", thing._number
        number = self.numbers.get(id(thing))
        if number is None:
            number = self.numbers[id(thing)] = len(self.mine)
            self.mine.append(thing)
        return b"H", number

    def _fetch(self, whose, number, kind):
        if whose == b"P":
            if number >= len(self.mine):
                raise Malformed("a number that was never given out")
            return self.mine[number]
        if number not in self.theirs:
            self.theirs[number] = Remote(self, number, kind)
        return self.theirs[number]

    def write(self, data):
        data = len(data).to_bytes(4, "little") + data
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except OSError:
            self._end("the other process has ended")

    def _message(self):
        size = int.from_bytes(self._take(4), "little")
        if size > MAX_BYTES:
            self._end(f"a message of {size} bytes")
        try:
            return decode(self._take(size), self._fetch)
        except Malformed as error:
            self._end(str(error))

    def _take(self, size):
        parts = []
        while size:
            try:
                part = os.read(self.fd, min(size, 1 << 20))
            except OSError:
                part = b""
            if not part:
                self._end("the other process has ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _end(self, why):
        self.gone = why
        raise Gone(why)


def _error(name, args):
    """The exception to raise for what the other side raised."""
    kind = _ERRORS.get(name, Exception)
    try:
        return kind(*args)
    except Exception:
        return RuntimeError(f"{name}: {str(args)[:200]}")


def told_of(error, name, text):
    """Where in the text of this name an error came from, at most three lines, and the error."""
    lines, places, trace = text.split("\n"), [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == name and trace.tb_lineno <= len(lines):
            line = lines[trace.tb_lineno - 1].strip()[:300]
            places.append(f"line {trace.tb_lineno}, in {trace.tb_frame.f_code.co_name}: {line}")
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == name:
        places.append(f"line {error.lineno}")
    try:
        said = f"{type(error).__name__}: {error}".removesuffix(": ")[:2000]
    except Exception:
        said = type(error).__name__
    return "\n".join([*places[-3:], said, *getattr(error, "__notes__", ())])
