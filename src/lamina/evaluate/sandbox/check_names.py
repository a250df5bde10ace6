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
    scopes = list(_scopes(symtable.symtable(tests, "<tests>", "exec")))
    used = {
        symbol.get_name()
        for scope in scopes
        for symbol in scope.get_symbols()
        if symbol.is_referenced() and _is_of_module(scope, symbol)
    }
    defined = {
        symbol.get_name()
        for scope in scopes
        for symbol in scope.get_symbols()
        if (symbol.is_assigned() or symbol.is_imported()) and _is_of_module(scope, symbol)
    }
    return tuple(sorted(used - defined - _BUILTINS))


def _is_of_module(scope: symtable.SymbolTable, symbol: symtable.Symbol) -> bool:
    return scope.get_type() == "module" or symbol.is_global()


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)
