"""The loop of a detection: sample a repeat, judge it, look whether the shares are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.core.errors import DataError
from lamina.versatune import shares as formulas
from lamina.versatune.journal import Journal, Sampled
from lamina.versatune.judges.interface import (
    Judge,
    JudgeStopped,
    Labelled,
    cut_like,
    make_judge,
    num_checks,
    split_labelled,
)
from lamina.versatune.shares import Confusion
from lamina.versatune.subject import Subject, text_of

if TYPE_CHECKING:
    from lamina.versatune.detect_recipe import DetectSection

Tell = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""(what is being done, how much is done, of how much)."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of the loop: the journal has every text and its judgement."""

    judge: Judge
    confusion: Confusion
    stopped: str
    """Why no more texts were sampled."""


@dataclass(frozen=True, slots=True)
class Work:
    """Everything a detection by sampled texts works with, besides the model."""

    section: DetectSection
    texts_of: Mapping[str, Sequence[str]]
    journal: Journal
    folder: Path
    home: Path | None
    tell: Tell
    progress: Progress

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self.texts_of)


def sample_and_judge(subject: Subject, work: Work) -> Answers:
    """Repeats until the shares are known or all are done, from where the journal stands.

    Raises:
        DataError: too few labelled rows, only empty texts, or no judgement that can be used.
        JudgeStopped: the judge cannot go on.
    """
    section, journal, k = work.section, work.journal, len(work.domains)
    labelled = split_labelled(
        work.texts_of,
        heldout_share=section.classifier.heldout_share,
        most=section.classifier.rows,
        seed=section.seed,
    )
    judge: Judge | None = None
    confusion: Confusion | None = None
    stopped, end = "", 0
    for repeat in range(section.repeats):
        end = (repeat + 1) * section.texts
        _sample_repeat(subject, work, repeat)
        if judge is None:
            lengths = [len(t.text.strip()) for t in journal.texts[: section.texts]]
            if not any(lengths):
                raise DataError(_all_empty(journal.texts))
            judge = make_judge(section, labelled, lengths=lengths, home=work.home, tell=work.tell)
            confusion = _check(judge, labelled, lengths, work)
        _judge_texts(judge, end, work)
        rows = formulas.as_rows(journal.judged[:end], k)
        largest = float(formulas.average(rows, laplace=section.laplace).se.max())
        work.tell(f"repeat {repeat + 1}: the largest standard error of a share is {largest:.4f}")
        if largest < section.tolerance:
            stopped = f"the largest standard error {largest:.4f} is below {section.tolerance:g}"
            stopped += " (before the correction)" if section.correct else ""
            break
    assert judge is not None and confusion is not None, "a detection has at least one repeat"
    stopped = stopped or f"all {section.repeats} repeats are done"
    assert len(journal.texts) == len(journal.judged) == end, "texts that no repeat asked for"
    if all(row is None for row in journal.judged):
        raise DataError(
            f"None of {end} texts has a judgement that can be used, so nothing is known of "
            "the domains. See the texts in the journal; change the judge or its prompt."
        )
    return Answers(judge, confusion, stopped)


def _sample_repeat(subject: Subject, work: Work, repeat: int) -> None:
    """Samples what the journal lacks of a repeat, batch by batch. A batch that was cut short by a
    kill is sampled again from its first text: who is in a batch may matter in the last bit."""
    from lamina.engine.generate import sample

    section, journal = work.section, work.journal
    begin, end = repeat * section.texts, (repeat + 1) * section.texts
    if len(journal.texts) >= end:
        return
    longest = section.max_new_tokens
    if subject.positions is not None and longest > subject.positions:
        longest = subject.positions
        if repeat == 0:
            work.tell(f"the model reads {longest} tokens, so texts have {longest} at most")
    first = begin + (len(journal.texts) - begin) // section.batch_size * section.batch_size
    drawn = sample(
        subject.model,
        start_id=subject.start_id,
        eos_id=subject.ends,
        num_texts=end - first,
        first=first,
        seed=section.seed,
        max_new_tokens=longest,
        temperature=section.temperature,
        top_p=section.top_p,
        repetition_penalty=section.repetition_penalty,
        batch_size=section.batch_size,
        num_ids=subject.num_ids,
    )
    batch: list[Sampled] = []
    for number, ids in enumerate(drawn, start=first):
        if number < len(journal.texts):
            continue
        batch.append(text_of(ids, subject))
        if (number + 1 - begin) % section.batch_size == 0 or number + 1 == end:
            journal.add_texts(batch)
            batch.clear()
            work.progress(f"sampling, repeat {repeat + 1}", number + 1 - begin, section.texts)


def _check(judge: Judge, labelled: Labelled, lengths: Sequence[int], work: Work) -> Confusion:
    """What the judge says of labelled rows that it has not seen, cut like the sampled texts."""
    section, journal = work.section, work.journal
    rows = [
        cut_like(labelled.heldout[domain][: num_checks(section)], lengths, seed=section.seed)
        for domain in labelled.domains
    ]
    flat = [text for own in rows for text in own]
    left = flat[len(journal.checks) :]
    with _kept(work, "labelled rows", len(flat), journal.checks):
        for row in judge.judge(left):
            journal.add_check(row)
            work.progress("testing the judge", len(journal.checks), len(flat))
    ends = accumulate(map(len, rows), initial=0)
    return Confusion.of([journal.checks[a:b] for a, b in pairwise(ends)])


def _judge_texts(judge: Judge, end: int, work: Work) -> None:
    """Judges the texts up to `end` that are not judged yet; a blank text is invalid unasked."""
    journal = work.journal
    left = [text.text for text in journal.texts[len(journal.judged) : end]]
    answers = judge.judge([text for text in left if text.strip()])
    with _kept(work, "texts", end, journal.judged):
        for text in left:
            journal.add_judged(next(answers) if text.strip() else None)
            work.progress("judging", len(journal.judged), end)


@contextmanager
def _kept(work: Work, what: str, total: int, done: Sequence[object]) -> Iterator[None]:
    """Adds to the error of a judge that stops: how much is judged, and how to go on."""
    try:
        yield
    except JudgeStopped as error:
        raise JudgeStopped(
            f"{error}\n{len(done)} of {total} {what} are judged and kept in {work.folder}. Run the "
            "same command again to go on from there."
        ) from error


def _all_empty(texts: Sequence[Sampled]) -> str:
    ended = sum(text.finished for text in texts)
    return (
        f"All {len(texts)} texts that the model wrote are empty ({ended} ended by themselves), so "
        "there is nothing to judge. Is it a base model, and is its start token the one that texts "
        "began with in training? `detect.judge: losses` needs no texts."
    )
