"""`lamina shift`: which tokens of an aligned model its base would not have said, as a folder.

    OUT/  shift.json answers.jsonl manifest.json (last)

The aligned model answers prompts greedily; then the base is asked along these answers, and so is
the base with the aligned weights of some modules. Costs the answers, and one forward pass of
prompts and answers for the base and each set of modules. Both models are in memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.core.errors import CheckpointError, LayerError, RecipeError, did_you_mean
from lamina.core.manifest import NAME as MANIFEST
from lamina.core.manifest import Manifest, write_json_atomic
from lamina.jobs.shift_prompts import Prompt, read_prompts
from lamina.jobs.watch import Watcher

if TYPE_CHECKING:
    from lamina.core.modules import Linears
    from lamina.core.scores import LayerScores
    from lamina.engine.load import Source
    from lamina.ila.responses import Answer
    from lamina.ila.token_shift import Tally

SCHEMA = "lamina.shift/1"
DTYPES = ("float32", "bfloat16", "float16", "auto")
_FILES = ("shift.json", "answers.jsonl")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of `lamina shift`, as the user wrote it."""

    model: str
    data: str
    base: str | None = None
    scores: str | None = None
    share: float = 0.3
    """Of the modules of `scores`: the top, the lowest and a random set are carried over."""
    prompts: int = 64
    tokens: int = 64
    """Of an answer, at most."""
    seed: int = 0
    dtype: str = "float32"
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class ModuleSet:
    """Modules whose aligned weights the base computes with."""

    name: str
    modules: frozenset[str]


def run_shift(
    asked: Asked, out: Path, *, overwrite: bool = False, watch: Watcher | None = None
) -> dict[str, Any]:
    """Measures the token shift into the folder `out`; gives what stands in `shift.json`.

    Raises:
        RecipeError, CheckpointError, LayerError, DataError, OutputError: each with all it found,
            before a model is loaded where that is possible.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    watch = watch or Watcher()
    _check(asked)
    from lamina.engine.load import fingerprint, load_tokenizer, quiet
    from lamina.jobs.tune import write_lines
    from lamina.jobs.tune_run import limits
    from lamina.jobs.tuned import account
    from lamina.weights.place import check_output

    aligned, base = find_pair(asked)
    inputs = [aligned.folder, base.folder, *([aligned.adapter] if aligned.adapter else [])]
    check_output(out, inputs, overwrite=overwrite)
    prints = {"model": fingerprint(aligned), "base": fingerprint(base)}
    if prints["model"] == prints["base"]:
        raise RecipeError(f"{asked.model} and its base are one model, so no token can be shifted.")
    scores = None if asked.scores is None else _scores(asked, prints)
    with quiet():
        tokenizer = load_tokenizer(aligned)
        if aligned.adapter is None:
            _same_tokens(tokenizer, load_tokenizer(base), asked)
    prompts, warnings = read_prompts(
        asked.data, tokenizer, name=asked.model, count=asked.prompts, new_tokens=asked.tokens,
        positions=limits(aligned.folder)[1], chat_template=asked.chat_template, seed=asked.seed,
    )  # fmt: skip
    measured, said, ranks = _measure(asked, aligned, base, tokenizer, prompts, scores, watch)
    told: dict[str, Any] = {
        "schema": SCHEMA,
        "model": asked.model,
        "base": asked.base or str(base.folder),
        "prompts": len(prompts),
        "ended": sum(one.ended for one in said),
        **measured,
    }
    out.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, *_FILES):
        (out / name).unlink(missing_ok=True)
    write_json_atomic(out / "shift.json", told, sort_keys=False)
    write_lines(out / "answers.jsonl", _lines(prompts, said, ranks, tokenizer))
    manifest = Manifest(
        kind="shift",
        status="done",
        versions={name: version(name) for name in ("lamina", "torch", "transformers", "numpy")},
        recipe=asdict(asked),
        inputs={
            "model": {"path": asked.model, "fingerprint": prints["model"]},
            "base": {"path": told["base"], "fingerprint": prints["base"]},
            "data": {"path": asked.data, "prompts": len(prompts)},
            **({} if asked.scores is None else {"scores": {"path": asked.scores}}),
        },
        outputs=account(out),
        results={"prompts": len(prompts), "tokens": told["tokens"]}
        | {"shifted": {one["name"]: one["fractions"]["shifted"] for one in told["sets"]}},
        warnings=warnings,
    )
    manifest.write(out)
    return {**told, "warnings": warnings}


def _check(asked: Asked) -> None:
    problems = []
    if asked.dtype not in DTYPES:
        problems.append(f"--dtype {asked.dtype} is unknown; {did_you_mean(asked.dtype, DTYPES)}")
    if not 0 < asked.share <= 1:
        problems.append(f"--share {asked.share:g} is no share of the modules; give one in (0, 1]")
    for name in ("prompts", "tokens"):
        if (value := getattr(asked, name)) < 1:
            problems.append(f"--{name} {value} measures nothing; give 1 or more")
    if asked.seed < 0:
        problems.append(f"--seed {asked.seed} is below 0")
    if problems:
        raise RecipeError("; ".join(problems) + ".")


def find_pair(asked: Asked) -> tuple[Source, Source]:
    """The aligned model and its base: an adapter's own base, if no other is named.

    Raises:
        RecipeError: a whole model without `--base`.
        CheckpointError: a model that is not there or cannot be loaded.
    """
    from lamina.engine.load import Source, find_model

    aligned = find_model(asked.model, base=asked.base)
    if aligned.adapter is not None:
        return aligned, Source(str(aligned.folder), aligned.folder, None)
    if asked.base is None:
        raise RecipeError(
            f"{asked.model} is a whole model: say with --base which model it was aligned from."
        )
    base = find_model(asked.base)
    if base.adapter is not None:
        raise RecipeError(f"--base {asked.base} is an adapter; give a whole model.")
    return aligned, base


def _scores(asked: Asked, prints: Mapping[str, str]) -> LayerScores:
    """The scores whose top is carried over, measured on this model or this base.

    Raises:
        DataError, LayerError: no scores in the file, or those of another model.
    """
    from lamina.jobs.scores_file import read_scores

    path = Path(str(asked.scores))
    scores = read_scores(path)
    known = {*prints.values(), *prints["model"].split("+")}
    if scores.inputs and not known & set(scores.inputs.values()):
        raise LayerError(
            f"{path} was measured on another model ({scores.model}), neither on {asked.model} nor "
            "on its base. Give scores of one of these."
        )
    return scores


def _same_tokens(aligned: Any, base: Any, asked: Asked) -> None:
    mine, theirs = aligned.get_vocab(), base.get_vocab()
    odd = sorted(token for token, number in mine.items() if theirs.get(token) != number)
    odd += sorted(token for token in theirs if token not in mine)
    if odd:
        raise CheckpointError(
            f"the tokenizers of {asked.model} and {asked.base} differ in {len(odd)} tokens ("
            f"{', '.join(repr(token) for token in odd[:5])}): a token's rank in the other model "
            "would mean nothing. Give the base that the model was aligned from."
        )


# ---- measuring ----------------------------------------------------------------------------------


def _measure(
    asked: Asked,
    aligned: Source,
    base: Source,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    scores: LayerScores | None,
    watch: Watcher,
) -> tuple[dict[str, Any], list[Answer], list[Any]]:
    """What stands in shift.json, the answers, and the ranks of their tokens in the base."""
    from lamina.engine.planned import linears
    from lamina.ila.responses import answers, ranks
    from lamina.ila.token_shift import carrying, most_shifted, same_modules
    from lamina.versatune.subject import open_subject

    watch.stage("loading the models", 0)
    theirs, mine = _load(aligned, asked.dtype), _load(base, asked.dtype)
    known = linears(mine)
    same_modules(known, linears(theirs))
    sets = module_sets(known, scores, asked)
    subject = open_subject(theirs, tokenizer)
    num_ids = min(subject.num_ids, int(mine.get_input_embeddings().weight.shape[0]))
    watch.stage("answers", len(prompts))
    said = answers(
        theirs,
        [one.ids for one in prompts],
        ends=subject.ends,
        max_new_tokens=asked.tokens,
        num_ids=num_ids,
        advance=watch.advance,
    )
    watch.stage("ranks", len(sets))
    found = {}
    for one in sets:
        with carrying(mine, theirs, known, one.modules):
            found[one.name] = ranks(mine, said, num_ids=num_ids)
        watch.advance(1)
    alone = found[sets[0].name]
    moved = most_shifted([one.ids for one in said], alone)
    weights = {one: module.weights for one, module in known.by_id.items()}
    told: dict[str, Any] = {
        "tokens": sum(len(one.ids) for one in said),
        "sets": [
            {
                "name": one.name,
                "modules": len(one.modules),
                "weights": sum(weights[module] for module in one.modules),
                **_told(found[one.name]),
            }
            for one in sets
        ],
        "most_shifted": [
            {"id": token, "token": tokenizer.decode([token]), "shifted": times, "said": of}
            for token, times, of in moved
        ],
    }
    return told, said, alone


def module_sets(linears: Linears, scores: LayerScores | None, asked: Asked) -> list[ModuleSet]:
    """None, the top, lowest and random share of ranked modules, each type, all linear modules.

    Raises:
        LayerError: the scores are of another architecture.
    """
    import math

    import numpy as np

    from lamina.ila.token_shift import by_type

    sets = [ModuleSet("base", frozenset())]
    if scores is not None:
        if scores.granularity == "module":  # a merge ranks norms, too
            kept = {one: value for one, value in scores.values.items() if one in linears.by_id}
            scores = scores.model_copy(update={"values": kept, "columns": {}, "spread": None})
        ranked = linears.by_module(scores).rank()
        ordered = sorted(ranked, key=lambda one: ranked[one])
        count = math.ceil(round(asked.share * len(ordered), 9))
        generator = np.random.Generator(np.random.PCG64([asked.seed, 0x7A]))
        drawn = [ordered[place] for place in generator.permutation(len(ordered))]
        told = f"{100 * asked.share:g} %"
        sets += [
            ModuleSet(f"top {told}", frozenset(ordered[:count])),
            ModuleSet(f"lowest {told}", frozenset(ordered[-count:])),
            ModuleSet(f"random {told}", frozenset(drawn[:count])),
        ]
    sets += [ModuleSet(name, members) for name, members in by_type(linears).items()]
    return [*sets, ModuleSet("all linear", frozenset(linears.by_id))]


def _told(ranks: Sequence[Any]) -> dict[str, Any]:
    from lamina.ila.token_shift import by_position, tally

    whole: Tally = tally(ranks)
    buckets = [
        {"first": first, "last": last, **one.to_json()} for first, last, one in by_position(ranks)
    ]
    return {**whole.to_json(), "by_position": buckets}


def _load(source: Source, dtype: str) -> Any:
    import torch

    from lamina.engine.load import load_network, quiet

    with quiet():
        network = load_network(source, "auto" if dtype == "auto" else getattr(torch, dtype))
    to_device: Any = network.to
    to_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return network.eval()


def _lines(
    prompts: Sequence[Prompt], said: Sequence[Answer], ranks: Sequence[Any], tokenizer: Any
) -> list[dict[str, Any]]:
    """Each prompt with its answer, its tokens and their ranks in the base."""
    return [
        {
            "place": prompt.place,
            "prompt": prompt.text,
            "answer": tokenizer.decode(answer.ids, clean_up_tokenization_spaces=False),
            "ended": answer.ended,
            "ids": list(answer.ids),
            "ranks": rank.tolist(),
        }
        for prompt, answer, rank in zip(prompts, said, ranks, strict=True)
    ]
