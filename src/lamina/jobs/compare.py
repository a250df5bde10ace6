"""`lamina compare`: how far rankings agree, from their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lamina.core.agreement import Comparison, check_share, compare
from lamina.core.errors import RecipeError
from lamina.core.layers import NORMS
from lamina.core.manifest import read_json
from lamina.core.scores import LayerScores
from lamina.jobs.plan import scores_at
from lamina.jobs.scores_file import read_scores

SCHEMA = "lamina.comparison/1"


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparison, and what each ranking says of itself."""

    comparison: Comparison
    methods: tuple[str, ...]
    higher_means: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        own = {"methods": self.methods, "higher_means": self.higher_means}
        return {"schema": SCHEMA, **asdict(self.comparison), **own}


def run_compare(files: Sequence[Path], *, share: float, expert: str | None = None) -> Compared:
    """Every pair of some rankings, from `scores.json` files or the folders that hold them.

    Of a merge's file that of `expert`; without one each of its experts is a ranking.

    Raises:
        RecipeError: fewer than two rankings, one of them twice, or a share outside (0, 1].
        DataError: a file that is missing or holds no scores.
        LayerError: values missing or not finite; different granularity or architectures.
    """
    check_share(share)
    read: dict[str, LayerScores] = {}
    for path, name in zip(files, _names(files), strict=True):
        file = scores_at(path)
        for own in _experts(file, expert):
            told = name if own is None or own == expert else f"{name}:{own}"
            if told in read:
                raise RecipeError(f"{path} is given twice; a ranking agrees with itself anyway")
            read[told] = _linear_only(read_scores(file, own))
    return Compared(
        compare(read, share),
        tuple(one.method for one in read.values()),
        tuple(one.higher_means for one in read.values()),
    )


def _names(files: Sequence[Path]) -> list[str]:
    """Short names: the folder or file, with as much of the path before as tells them apart."""
    parts = [list(f.parent.parts if f.name == "scores.json" else f.parts) or ["."] for f in files]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(file) for file in files]


def _experts(file: Path, expert: str | None) -> list[str | None]:
    """The experts of a merge's scores, all if none is named; [None] for the scores of a ranking."""
    read = read_json(file) if file.is_file() else {}
    experts = read.get("experts") if isinstance(read, dict) else None
    if not isinstance(experts, dict):
        return [None]
    return [expert] if expert is not None else list(experts) or [None]


def _linear_only(scores: LayerScores) -> LayerScores:
    """Without the norms that a merge also measures; a ranking of modules has none anyway."""
    if scores.granularity != "module":
        return scores
    kept = {
        unit: value for unit, value in scores.values.items() if unit.rpartition(".")[2] not in NORMS
    }
    return scores.model_copy(update={"values": kept})
