"""What runs one program: the first code in the fresh interpreter, compiled by the launcher.

It reads the program and the secret word from descriptor 3 and answers on 4. The word is on no
variable: it is read while the arguments of a C call are built, and lies on the interpreter's value
stack and in a partial until that call is over. Its bytes are in a page of their own, which is gone
with them: freed memory that a program gets to see again has never held it. No Python frame holds
it, the collector's lists and everything else that walks objects are refused by an audit hook made
of C functions only, so that no frame of a hook can be caught by a signal or in a traceback, and no
class of it can be found and changed.
"""

import _imp
import gc
import marshal
import posix
import sys
from _functools import partial  # pyrefly: ignore
from _io import FileIO, TextIOWrapper
from _operator import call
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

REFUSED = """
gc.get_objects gc.get_referrers gc.get_referents sys._current_frames sys._current_exceptions
sys.settrace sys.setprofile sys.addaudithook sys.monitoring.register_callback sys.remote_exec
code.__new__ cpython.PyInterpreterState_New cpython._PySys_ClearAuditHooks
sqlite3.enable_load_extension sqlite3.load_extension
ctypes.addressof ctypes.call_function ctypes.cdata ctypes.cdata/buffer ctypes.create_string_buffer
ctypes.create_unicode_buffer ctypes.dlopen ctypes.dlsym ctypes.dlsym/handle ctypes.get_errno
ctypes.get_last_error ctypes.set_errno ctypes.set_exception ctypes.string_at ctypes.wstring_at
ctypes.memoryview_at ctypes.PyObj_FromPtr
""".split()
NOTED = """
os.exec os.fork os.forkpty os.posix_spawn os.spawn os.system os.kill os.killpg pty.spawn
subprocess.Popen socket.connect socket.bind socket.getaddrinfo resource.setrlimit resource.prlimit
signal.pthread_kill
""".split()


def _take(length):
    parts = b""
    while len(parts) < length:
        more = posix.read(3, length - len(parts))
        if not more:
            posix._exit(124)
        parts += more
    return parts


def _word(length):
    """The rest of descriptor 3 in a page of its own; no copy of it was ever elsewhere."""
    page = mmap(-1, length, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    with memoryview(page) as view:
        place = 0
        while place < length:
            with view[place:] as rest:
                more = posix.readv(3, [rest])
            if not more:
                posix._exit(124)
            place += more
    return page


def _text(source):
    """What is compiled: with a declared encoding the text, in which it may have made zero bytes
    that would end a program of bytes before its end."""
    head = source.split(b"\n", 2)[:2]
    if not any(b"coding" in line for line in head):
        return source
    return sys.modules["_frozen_importlib_external"].decode_source(source)


def _refusal():
    """A hook that refuses events by built-in functions alone: nothing of it can be changed.

    The inner `max` gives the event's name if it is in the tuple twice and else 0, and the outer one
    compares that with the 0 it has for the event's arguments: a name and a number are no pair.
    """
    return partial(max, key=partial(max, 0, key=(0, *REFUSED, *REFUSED).count))


def _guards():
    """Two hooks: one that tells, whose classes a program could find and change, and one that holds.

    They are laid on before the first knows what to refuse, for new hooks are refused.
    """
    table, names = {}, _telling()
    sys.addaudithook(table.get)
    sys.addaudithook(_refusal())
    table.update(names)


def _telling():
    """A look-up by the event's name, in a table whose keys answer for it."""
    notes = TextIOWrapper(FileIO(4, "w", closefd=False), write_through=True)
    refuse = partial({}.__getitem__, "refused by the sandbox")
    ends = {"write": staticmethod(notes.write), "flush": staticmethod(refuse)}
    told_and_refused = partial(print, "refused", file=type("notes", (), ends)(), flush=True)
    table = {}
    for names, answer in (
        (REFUSED, told_and_refused),
        (NOTED, partial(print, "noted", file=notes)),
    ):
        means = {"__slots__": (), "__hash__": str.__hash__, "__eq__": staticmethod(answer)}
        table |= dict.fromkeys(map(type("event", (str,), means), names))
    return table


def _guard_code(roots, known, frozen, frame_of, note, leave):
    """A second hook: code comes from texts and from the library's own files, from nowhere else.

    Bytecode that no compiler made reads memory as it likes, and so do extension modules. A frame
    of this hook can be seen by a signal's handler, so it refuses by ending the process, and holds
    nothing that is secret.
    """

    def is_ours(path):
        return type(path) is str and path.startswith(roots) and "/../" not in path

    def is_library_code(frame, data):
        if frame.f_code is not known:
            return False
        path = frame.f_locals.get("bytecode_path")
        if not is_ours(path):
            return False
        with FileIO(path) as file:
            return file.readall()[16:] == bytes(data)

    names_of, found = frozen

    def is_frozen_code(data):
        """Whether the interpreter itself holds these bytes; from 3.13 on it reads them so."""
        held = (found(name, withdata=True) for name in names_of())
        return any(one is not None and one[0] == data for one in held)

    def hook(event, args):
        if event == "marshal.loads":
            if not is_library_code(frame_of(1), args[0]) and not is_frozen_code(args[0]):
                note(4, b"\nrefused marshal.loads\n")
                leave(122)
        elif event == "import" and args[1] is not None and not is_ours(args[1]):
            note(4, b"\nrefused import of an extension module\n")
            leave(122)

    return hook


def _told(error, source, limit=2000):
    """Where in the program an error came from, at most three lines, and the error."""
    trace, lines = error.__traceback__, []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<program>":
            number, name = trace.tb_lineno, trace.tb_frame.f_code.co_name
            lines.append(f"line {number}, in {name}: {source[number - 1].strip()[:200]}")
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == "<program>":
        lines.append(f"line {error.lineno}")
    lines = lines[-3:]
    try:
        said = str(error)[:limit]
    except Exception:
        said = "(its text cannot be shown)"
    return "\n".join(lines), f"{type(error).__name__}: {said}".removesuffix(": ")


def _word_for(error):
    if isinstance(error, SystemExit):
        return "left"
    return "memory" if isinstance(error, MemoryError) else "error"


def _report(error, source):
    word = _word_for(error)
    try:
        where, what = _told(error, source)
    except BaseException:
        where, what = "", type.__repr__(type(error))
    text = ascii(f"{where}\n{what}".strip())
    _settle((sys.__stdout__, sys.__stderr__))
    code = 1
    try:
        posix.write(4, f"\n{word} {text}\n".encode())
    except OSError:
        code = 123
    posix._exit(code)


def _settle(streams):
    """Hand out what was printed; a program that closed its output may have."""
    for stream in streams:
        try:
            stream.flush()
        except Exception:
            continue


def _main():
    before = _take(int(_take(16)))
    source = _take(int(_take(16)))
    main = type(sys)("__main__")
    main.__builtins__ = __builtins__
    lines = source.decode(errors="replace").split("\n")
    sys.modules["__main__"] = main
    sys.argv = ["program.py"]
    sys.path.insert(0, "")
    if b"asyncio" in source:
        import asyncio  # noqa: F401 - makes code of code, which is refused later
    try:
        code = compile(_text(source), "<program>", "exec", dont_inherit=True)
    except BaseException as error:
        _report(error, lines)
    if before:
        exec(marshal.loads(before), main.__dict__)
    external = sys.modules["_frozen_importlib_external"]
    known = external._compile_bytecode.__code__
    roots = tuple(path + "/" for path in sys.path if path.startswith("/"))
    names = _imp._frozen_module_names  # pyrefly: ignore - not in its stubs
    frozen = (names, _imp.find_frozen)
    sys.addaudithook(_guard_code(roots, known, frozen, sys._getframe, posix.write, posix._exit))
    _guards()
    gc.freeze()
    namespace = main.__dict__
    del main, source, before, external, known, roots, names, frozen
    try:
        any(
            map(
                call,
                (
                    partial(exec, code, namespace),
                    partial(_settle, (sys.stdout, sys.stderr)),
                    partial(posix.write, 4, _word(66)),
                ),
            )
        )
        posix._exit(0)
    except BaseException as error:
        _report(error, lines)


_main()
