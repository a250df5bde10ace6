"""A ranking in single numbers."""

from lamina.report import facts
from lamina.report.formats import count, number, percent
from lamina.report.nouns import Run
from lamina.report.rank import sums, words
from lamina.report.rank.nouns import Ranked
from lamina.report.tune.nouns import Tuned
from lamina.report.tune.results import result_facts


def rank_facts(ranked: Ranked, *, cost: bool) -> list[facts.Fact]:
    """The ranking in single numbers."""
    found: list[facts.Fact] = []
    main = ranked.main
    if main is not None:
        note = f"in {len(sums.blocks_of(main.values))} blocks"
        found.append(facts.Fact("Ranked", words.units_words(ranked), note))
        found.append(facts.Fact("Top set", count(len(ranked.top)), words.gain_words(ranked)))
    lowest, removed = words.between_seeds(ranked), words.removed_of(ranked)[1]
    if lowest is not None:
        found.append(facts.Fact("Between seeds", number(lowest, 3), "Spearman, the lowest pair"))
    if removed is not None and ranked.way != "leave_one_out":
        found.append(facts.Fact("Leave-one-out", number(removed, 3), "Spearman with it"))
    read = ranked.agreement
    if read is not None and read.completeness_error is not None:
        note = "sum of all values against the adapter's gain"
        found.append(facts.Fact("Off by", percent(abs(read.completeness_error)), note))
    if cost:
        bare = Run(ranked.run.name, "rank", "", {}, {}, {}, {}, {}, (), cost=ranked.run.cost)
        found += result_facts(Tuned(bare, (), (), None, None, None, None, ()), cost=True)
    return found
