"""Which names tests use and leave to the program: read from the text, not run here."""

import builtins
import symtable
from collections.abc import Iterator

_BUILTINS = frozenset(dir(builtins))


def free_names(tests: str) -> tuple[str, ...]:
    """Names that the tests use but neither define nor import, and that are not built in; sorted.

    Raises:
        SyntaxError: the tests are no Python.
    """
    table = symtable.symtable(tests, "<tests>", "exec")
    defined = {
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
    }
    return tuple(sorted(set(_globals(table)) - defined - _BUILTINS))


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (table.get_type() == "module" or symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _globals(child)
