"""Reference solutions of HumanEval and MBPP must pass, and known wrong ones fail, in the sandbox.

    python bench/reference_solutions.py [DATA] [--limit N] [--mutants 1] [--workers 2]

Every reference solution is checked (`Sandbox.check`: the tests in a process that holds no line of
the program). Then each is changed in one place, the same places every time: an operator, a
comparison, a constant, a returned value, a condition, a bound, a statement left out. A change that
one plain run of program and tests in a single file finds wrong is known to be wrong, and must be
found wrong by the check; on all changes the two must agree. Last come the costs per program, beside
a bare interpreter's in the same run. Ends with 1 when anything is missed.
"""

import argparse
import ast
import collections
import copy
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lamina.evaluate.nouns import WriteItem
from lamina.evaluate.sandbox import Limits, Sandbox, Verdict
from lamina.evaluate.tasks import TASKS, build_items

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
NEEDED = 200
_SWAPS: dict[type[ast.AST], type[ast.AST]] = dict(
    [
        *((ast.Lt, ast.LtE), (ast.LtE, ast.Lt), (ast.Gt, ast.GtE), (ast.GtE, ast.Gt)),
        *((ast.Eq, ast.NotEq), (ast.NotEq, ast.Eq), (ast.In, ast.NotIn), (ast.NotIn, ast.In)),
        *((ast.Is, ast.IsNot), (ast.IsNot, ast.Is), (ast.And, ast.Or), (ast.Or, ast.And)),
        *((ast.Add, ast.Sub), (ast.Sub, ast.Add), (ast.Mult, ast.Add), (ast.Div, ast.Mult)),
        *((ast.Mod, ast.Add), (ast.FloorDiv, ast.Div), (ast.Pow, ast.Mult)),
        *((ast.BitXor, ast.BitOr), (ast.BitAnd, ast.BitOr), (ast.BitOr, ast.BitAnd)),
        *((ast.LShift, ast.RShift), (ast.RShift, ast.LShift)),
    ]
)
Change = Callable[[ast.AST], None]


@dataclass(frozen=True)
class Case:
    """A program with its tests; `kind` is what was changed, empty for the reference."""

    id: str
    kind: str
    program: str
    tests: str
    plain: str
    """The tests as the data has them, for a single file."""
    entry: str | None


def main() -> int:
    asked = _arguments()
    if not asked.data.is_dir():
        print(f"{asked.data} is not there: say where the data folder is", file=sys.stderr)
        return 2
    # Wall time is for a loaded machine; processor time is what changes that never end meet.
    limits = Limits(wall_seconds=30.0, cpu_seconds=10)
    with Sandbox(limits) as sandbox, ThreadPoolExecutor(asked.workers) as pool:
        print(sandbox.protection.line)

        def checked(case: Case) -> Verdict:
            return sandbox.check(case.program, case.tests, case.entry)

        def in_one_file(case: Case) -> Verdict:
            return sandbox.run(f"{case.program}\n{case.plain}")

        missed = 0
        references = {}
        for task in ("humaneval", "mbpp"):
            cases = references[task] = _references(task, asked.data, asked.limit)
            told = list(pool.map(checked, cases))
            missed += _tell_failures(task, cases, told)
        everything = [case for cases in references.values() for case in cases]
        mutants = [one for case in everything for one in _mutants(case, asked.mutants)]
        alone, apart = list(pool.map(in_one_file, mutants)), list(pool.map(checked, mutants))
        missed += _tell_mutants(mutants, alone, apart, full=asked.limit is None)
        _tell_costs(everything[:: max(1, len(everything) // 60)], in_one_file, checked)
    print("all as it must be" if not missed else f"MISSED: {missed}")
    return int(missed > 0)


def _references(task: str, data: Path, limit: int | None) -> list[Case]:
    cases = []
    with gzip.open(data / "bench" / f"{task}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = {str(row["task_id"]): row for row in map(json.loads, lines)}
    for item in build_items(TASKS[task], data=data, limit=limit).items:
        assert isinstance(item, WriteItem) and item.program is not None
        program, row = item.program, rows[item.id]
        plain = f"{row['test']}\ncheck({row['entry_point']})" if "test" in row else program.tests
        text = program.before + item.answer
        cases.append(Case(f"{task} {item.id}", "", text, program.tests, plain, program.entry))
    return cases


def _tell_failures(task: str, cases: Sequence[Case], told: Sequence[Verdict]) -> int:
    failed = [
        (case, verdict) for case, verdict in zip(cases, told, strict=True) if not verdict.passed
    ]
    print(f"{task}: {len(cases) - len(failed)} of {len(cases)} reference solutions pass")
    for case, verdict in failed:
        print(f"  {case.id}: {verdict.reason}: {verdict.detail[:200]!r}")
    for case, verdict in zip(cases, told, strict=True):
        if verdict.suspicious:
            print(f"  {case.id} is told suspicious: {', '.join(verdict.suspicious)}")
    return len(failed)


def _tell_mutants(
    mutants: Sequence[Case], alone: Sequence[Verdict], apart: Sequence[Verdict], *, full: bool
) -> int:
    """Counts of known wrong changes and of what the check said of them."""
    rows = list(zip(mutants, alone, apart, strict=True))
    wrong = [row for row in rows if not row[1].passed]
    caught = [row for row in wrong if not row[2].passed]
    agree = [row for row in rows if row[1].passed == row[2].passed]
    print(
        f"{len(rows)} changed solutions: {len(wrong)} are wrong by one run in a single file, "
        f"{len(caught)} of these fail the check; the two agree on {len(agree)} of {len(rows)}"
    )
    kinds = collections.Counter(case.kind for case, _, _ in wrong)
    print("  wrong by kind: " + ", ".join(f"{kind} {many}" for kind, many in sorted(kinds.items())))
    reasons = collections.Counter(verdict.reason for _, _, verdict in caught)
    print("  reasons: " + ", ".join(f"{word} {many}" for word, many in sorted(reasons.items())))
    for case, one, other in rows:
        if one.passed != other.passed:
            print(f"  {case.id} ({case.kind}): single file {one.reason}, check {other.reason}")
            print(f"    {other.detail[:300]!r}")
    too_few = full and len(wrong) < NEEDED
    if too_few:
        print(f"  {NEEDED} wrong ones are needed")
    return len(rows) - len(agree) + int(too_few)


def _tell_costs(cases: Sequence[Case], *ways: Callable[[Case], Verdict]) -> None:
    """Median wall time of each way, one program at a time, in turns."""
    bare = [sys.executable, "-I", "-S", "-c", "pass"]
    taken: list[list[float]] = [[] for _ in range(len(ways) + 1)]
    for case in cases:
        actions = [
            lambda: subprocess.run(bare, check=True, env={}),
            *(partial(way, case) for way in ways),
        ]
        for seconds, action in zip(taken, actions, strict=True):
            began = time.perf_counter()
            action()
            seconds.append(time.perf_counter() - began)
    base, *others = (statistics.median(seconds) * 1000 for seconds in taken)
    single, check = others
    print(
        f"cost per program, medians over {len(cases)}: bare interpreter {base:.1f} ms, single file "
        f"{single:.1f} ms ({single / base:.1f} x), check {check:.1f} ms ({check / base:.1f} x)"
    )


def _mutants(case: Case, number: int) -> list[Case]:
    """Some of the changes of a solution, drawn by its own seed."""
    found = list(dict.fromkeys(_changed(case.program)))
    chosen = random.Random(case.id).sample(found, min(number, len(found)))
    return [replace(case, kind=kind, program=text) for kind, text in chosen]


def _changed(program: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of every change in one place."""
    tree = ast.parse(program)
    same = ast.unparse(tree)
    for place, node in enumerate(ast.walk(tree)):
        for kind, change in _changes(node):
            other = copy.deepcopy(tree)
            change(list(ast.walk(other))[place])
            text = ast.unparse(ast.fix_missing_locations(other))
            if text != same:
                yield kind, text


def _changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    match node:
        case ast.Compare(ops=[first, *_]) if type(first) in _SWAPS:
            yield "comparison", lambda n: n.ops.__setitem__(0, _SWAPS[type(n.ops[0])]())
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in _SWAPS:
            yield "operator", lambda n: setattr(n, "op", _SWAPS[type(n.op)]())
        case ast.Constant(value=bool()):
            yield "constant", lambda n: setattr(n, "value", not n.value)
        case ast.Constant(value=int() | float()):
            yield "constant", lambda n: setattr(n, "value", n.value + 1)
        case ast.Return(value=ast.expr()):
            yield "returned value", lambda n: setattr(n, "value", None)
        case ast.If() | ast.While() | ast.IfExp():
            yield "condition", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
        case ast.Call(func=ast.Name(id="range" | "len")):
            yield "bound", lambda n: n.args.__setitem__(-1, _plus_one(n.args[-1]))
        case ast.Subscript(slice=ast.Name() | ast.BinOp()):
            yield "index", lambda n: setattr(n, "slice", _plus_one(n.slice))
        case ast.FunctionDef() | ast.For() | ast.While():
            yield from _without_statements(node)


def _without_statements(
    node: ast.FunctionDef | ast.For | ast.While,
) -> Iterator[tuple[str, Change]]:
    for place, statement in enumerate(node.body):
        if isinstance(statement, ast.Assign | ast.AugAssign | ast.Expr | ast.If):
            yield "statement", lambda n, at=place: n.body.__setitem__(at, ast.Pass())


def _plus_one(value: ast.expr) -> ast.expr:
    if isinstance(value, ast.Name | ast.BinOp | ast.Constant | ast.Call):
        return ast.BinOp(value, ast.Add(), ast.Constant(1))
    return value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=DATA)
    parser.add_argument("--limit", type=int, help="the first tasks of each set only")
    parser.add_argument("--mutants", type=int, default=1, help="changes of each solution")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
