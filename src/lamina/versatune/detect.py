"""Which domains does a model know? Sample from the start token, judge, average.

Detection of VersaTune (arXiv 2411.11266; its figure, the body of the paper was not available).
What differs from the released code is in docs/papers.md. `detect` works on a loaded model, for
`lamina detect` and inside a tune run; everything sampled and judged is in the folder's journal as
it comes, so a killed run, or one whose judge went away, goes on and ends with the same bytes.
Memory: the model, its cache for one batch, and all texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.core.errors import DataError, OutputError, RecipeError
from lamina.core.manifest import read_json, write_atomic, write_json_atomic
from lamina.versatune import shares as formulas
from lamina.versatune.journal import NAME as JOURNAL
from lamina.versatune.journal import open_journal
from lamina.versatune.judges.interface import shuffled
from lamina.versatune.results import numbers, packed, result
from lamina.versatune.sampling import Progress, Tell, Work, sample_and_judge
from lamina.versatune.subject import Subject, open_subject

if TYPE_CHECKING:
    from torch import nn

    from lamina.versatune.detect_recipe import DetectSection

SCHEMA = "lamina.shares/1"
SHARES, TEXTS = "shares.json", "texts.jsonl.gz"
_TRANSPORT = {"timeout_seconds", "retries", "workers", "max_nonsense", "api_key_env"}
"""Settings of an endpoint that may change when a run is taken up again."""


def detect(
    model: nn.Module,
    tokenizer: Any,
    labelled: Mapping[str, Sequence[str]],
    section: DetectSection,
    folder: Path,
    *,
    identity: str,
    home: Path | None = None,
    tell: Tell | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Detects the domains' shares in a loaded model; returns what `shares.json` holds.

    Writes `shares.json` (last) and `texts.jsonl.gz` into `folder`, and nothing else that stays. A
    folder with the result of the very same detection is read, not written.

    Args:
        labelled: texts of each domain (`Record.whole`), in the recipe's order.
        identity: what the model is, such as a checkpoint's fingerprint, to resume only with it.
        home: the recipe's folder, for a judge given by a relative path.

    Raises:
        RecipeError: fewer than two domains, a floor they cannot all have, no start token, no key.
        CheckpointError: the model or the judge cannot be used.
        DataError: too few labelled rows, no text to judge, or a judge that stopped (JudgeStopped).
        OutputError: the folder holds another detection, or cannot be written.
    """
    tell, progress = tell or _silent, progress or _silent_progress
    check_section(tuple(labelled), section, home=home)
    subject = open_subject(model, tokenizer)
    run = fingerprint(labelled, section, identity)
    found = _finished(folder, run)
    if found is not None:
        tell(f"{folder} already holds this detection")
        return found
    if section.judge == "losses":
        told = _from_losses(subject, labelled, section, progress)
    else:
        with open_journal(folder, run) as journal:
            if journal.texts:
                done = f"{len(journal.texts)} texts sampled, {len(journal.judged)} judged"
                tell(f"going on with an earlier run: {done}")
            work = Work(section, labelled, journal, folder, home, tell, progress)
            answers = sample_and_judge(subject, work)
            told = result(answers, journal, section, tuple(labelled), tell=tell)
            write_atomic(folder / TEXTS, packed(journal, section, tuple(labelled)))
    folder.mkdir(parents=True, exist_ok=True)
    told = {"schema": SCHEMA, "run": run, **told, "settings": settings_of(section)}
    write_json_atomic(folder / SHARES, told, sort_keys=False)
    (folder / JOURNAL).unlink(missing_ok=True)
    return told


def check_section(
    domains: Sequence[str], section: DetectSection, *, home: Path | None = None
) -> None:
    """What can be refused before a model is loaded and sampled for hours.

    Raises:
        RecipeError: fewer than two domains, a floor that they cannot all have, no key for an
            endpoint.
        CheckpointError: the judge is no model.
    """
    if len(domains) < 2:
        raise RecipeError(
            f"There is {len(domains) or 'no'} domain; its share needs no detecting. Name two or "
            "more."
        )
    if section.floor * len(domains) > 1:
        raise RecipeError(
            f"detect.floor is {section.floor:g}, but {len(domains)} domains cannot all have so "
            f"much: at most {1 / len(domains):.4g}."
        )
    if section.judge == "endpoint" and section.endpoint is not None:
        from lamina.versatune.judges.endpoint import EndpointJudge

        EndpointJudge(section.endpoint, domains, key=section.api_key())
    if section.judge == "model" and section.model is not None:
        from lamina.versatune.judges.model import find_judge

        find_judge(section.model, home)


def fingerprint(
    labelled: Mapping[str, Sequence[str]], section: DetectSection, identity: str
) -> str:
    """What a run must share with the one that it goes on with."""
    digest = hashlib.sha256()
    for domain, texts in labelled.items():
        digest.update(json.dumps([domain, *texts]).encode())
    told = {
        "settings": settings_of(section, transport=False),
        "model": identity,
        "rows": digest.hexdigest(),
        "versions": {name: version(name) for name in ("torch", "transformers", "scikit-learn")},
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def settings_of(section: DetectSection, *, transport: bool = True) -> dict[str, Any]:
    """The section without the judges that are not asked."""
    others = {"classifier", "model", "endpoint", "losses"} - {section.judge}
    if section.judge != "losses":  # its `heldout_share` splits the rows of every judge
        others -= {"classifier"}
    values = section.model_dump(mode="json", exclude=others)
    if not transport and section.judge == "endpoint":
        values["endpoint"] = {
            key: value for key, value in values["endpoint"].items() if key not in _TRANSPORT
        }
    return values


def _from_losses(
    subject: Subject,
    texts_of: Mapping[str, Sequence[str]],
    section: DetectSection,
    progress: Progress,
) -> dict[str, Any]:
    from lamina.versatune.judges.losses import text_losses

    domains = tuple(texts_of)
    longest = min(section.max_new_tokens, subject.positions or section.max_new_tokens)
    by_domain = {}
    for number, domain in enumerate(domains):
        own = shuffled(texts_of[domain], seed=section.seed)
        if len(own) < 2:
            raise DataError(
                f"The domain {domain} has {len(own)} different texts; a loss with its error needs "
                "two or more."
            )
        by_domain[domain] = text_losses(
            subject.model,
            subject.tokenizer,
            own[: section.losses.rows],
            start_id=subject.start_id,
            max_tokens=longest,
        )
        progress("measuring losses", number + 1, len(domains))
    raw = formulas.from_losses(
        [rows.loss for rows in by_domain.values()], [rows.se for rows in by_domain.values()]
    )
    return {
        **numbers(domains, raw, raw, section.floor),
        "se_repeats": None,
        "repeats": [],
        "texts": 0,
        "tokens": 0,
        "finished": 0,
        "invalid": 0,
        "empty": 0,
        "judge": {
            "kind": "losses",
            "losses": {
                domain: {"loss": rows.loss, "se": rows.se, "tokens": rows.total_tokens}
                for domain, rows in by_domain.items()
            },
        },
        "corrected": False,
        "stopped": "nothing was sampled: the shares are from losses",
        "warnings": [],
    }


def _finished(folder: Path, run: str) -> dict[str, Any] | None:
    """The result of the very same detection, if the folder holds it."""
    if not (folder / SHARES).is_file():
        return None
    found = read_json(folder / SHARES)
    if isinstance(found, dict) and found.get("run") == run:
        (folder / JOURNAL).unlink(missing_ok=True)
        return found
    raise OutputError(
        f"{folder} holds the shares of another detection: other settings, another model, or other "
        "rows. Choose another folder, or remove this one."
    )


def _silent(message: str) -> None:
    del message


def _silent_progress(what: str, done: int, total: int) -> None:
    del what, done, total
