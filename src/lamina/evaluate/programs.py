"""Written programs are run, each in the sandbox, and their verdicts put to the answers.

No torch. Programs are run side by side by threads, which only wait: the sandbox's own processes
work. The same text with the same tests is run once, however often it was written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from lamina.evaluate.nouns import Item, Raw, WriteItem

if TYPE_CHECKING:
    from lamina.evaluate.sandbox import Sandbox, Verdict

Case = tuple[str, str, str | None]
"""What `Sandbox.check` takes: the program, the tests, the entry."""


_DEFINED = re.compile(r"^(?:async\s+)?(?:def|class)\s+(\w+)", re.MULTILINE)
_ANEW = r"^(?:(?:async\s+)?(?:def|class)\s+{0}\b|{0}\s*[:=]|import\s.*\b{0}\b|from\s.*\b{0}\b)"


def judge_programs(
    items: Sequence[Item],
    raws: Mapping[str, Raw],
    sandbox: Sandbox,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Raw]:
    """The answers by the items' ids, each with `verdicts`: one for each text, as JSON.

    Args:
        workers: programs that run at the same time; None: as many as processors.
        progress: called after each program with the number of answers that now have a verdict.
    """
    cases = {item.id: _cases(item, raws[item.id]) for item in items}
    places: dict[Case, int] = {}
    for of_item in cases.values():
        for case in of_item:
            places[case] = places.get(case, 0) + 1
    tell = progress or _silent
    verdicts: dict[Case, dict[str, Any]] = {}
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        told = pool.map(lambda case: _kept(sandbox.check(*case)), places)
        try:
            for case, verdict in zip(places, told, strict=True):
                verdicts[case] = verdict
                tell(places[case])
        except BaseException:  # Ctrl-C: those that wait are not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {
        item.id: {
            **raws[item.id],
            "verdicts": [
                _marked(verdicts[case], item, text)
                for case, text in zip(cases[item.id], raws[item.id]["texts"], strict=True)
            ],
        }
        for item in items
    }


def redefined(before: str, text: str, entry: str | None) -> list[str]:
    """Names of `before`, but the entry, that a writing defines anew at its outermost level.

    Some tests of HumanEval judge by a function of the prompt (`poly` of HumanEval/32): who replaces
    that one judges themselves.
    """
    given = set(_DEFINED.findall(before)) - {entry}
    return sorted(name for name in given if re.search(_ANEW.format(re.escape(name)), text, re.M))


def _marked(verdict: dict[str, Any], item: Item, text: str) -> dict[str, Any]:
    assert isinstance(item, WriteItem) and item.program is not None, item
    names = redefined(item.program.before, text, item.program.entry)
    found = {*verdict["suspicious"], *(f"redefines {name}" for name in names)}
    return {**verdict, "suspicious": sorted(found)}


def _kept(verdict: Verdict) -> dict[str, Any]:
    """The verdict without its time, which is another one in each run."""
    return {name: value for name, value in verdict.as_json().items() if name != "seconds"}


def _cases(item: Item, raw: Raw) -> list[Case]:
    assert isinstance(item, WriteItem) and item.program is not None, item
    program = item.program
    return [(program.before + text, program.tests, program.entry) for text in raw["texts"]]


def _silent(count: int) -> None:
    del count
