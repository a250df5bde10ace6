"""Written programs are run, each in the sandbox, and their verdicts put to the answers.

No torch. Programs are run side by side by threads, which only wait: the sandbox's own processes
work. The same text with the same tests is run once, however often it was written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from lamina.evaluate.nouns import Item, Raw, WriteItem

if TYPE_CHECKING:
    from lamina.evaluate.sandbox import Sandbox, Verdict

Case = tuple[str, str, str | None]
"""What `Sandbox.check` takes: the program, the tests, the entry."""


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
        item.id: {**raws[item.id], "verdicts": [verdicts[case] for case in cases[item.id]]}
        for item in items
    }


def _kept(verdict: Verdict) -> dict[str, Any]:
    """The verdict without its time, which is another one in each run."""
    return {name: value for name, value in verdict.as_json().items() if name != "seconds"}


def _cases(item: Item, raw: Raw) -> list[Case]:
    assert isinstance(item, WriteItem) and item.program is not None, item
    program = item.program
    return [(program.before + text, program.tests, program.entry) for text in raw["texts"]]


def _silent(count: int) -> None:
    del count
