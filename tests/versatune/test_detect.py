"""Detection end to end on loaded pico models: planted shares, resumed runs, bad input."""

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamina.core.errors import DataError, OutputError, RecipeError
from lamina.versatune import sampling
from lamina.versatune.detect import detect
from lamina.versatune.detect_recipe import DetectSection
from lamina.versatune.journal import Journal
from lamina.versatune.judges.interface import Judge, JudgeStopped
from lamina.versatune.shares import Judgement

DOMAINS = ("law", "medicine", "code")


def settings(**values: Any) -> DetectSection:
    small = {"texts": 120, "repeats": 2, "max_new_tokens": 8, "tolerance": 0, "floor": 0}
    return DetectSection(**{**small, **values})


def run(planted: Any, folder: Path, section: DetectSection, **more: Any) -> dict[str, Any]:
    given = {"identity": "planted", **more}
    return detect(planted.model, planted.tokenizer, planted.labelled, section, folder, **given)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# ---- known answers ------------------------------------------------------------------------------


def test_the_model_has_learnt_the_planted_shares(planted: Any) -> None:
    assert planted.exact() == pytest.approx(planted.shares, abs=0.005)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_planted_shares_are_detected_within_two_standard_errors(
    planted: Any, tmp_path: Path, seed: int
) -> None:
    told = run(planted, tmp_path / "out", settings(texts=400, seed=seed))
    assert told["texts"] == 800
    for domain, share in planted.shares.items():
        assert abs(told["shares"][domain] - share) <= 2 * told["se"][domain], domain
    assert told["judge"]["accuracy"] == 1.0


def test_the_standard_errors_are_those_of_repeated_detections(planted: Any, tmp_path: Path) -> None:
    exact = planted.exact()
    distances = []
    for seed in range(20):
        told = run(planted, tmp_path / str(seed), settings(repeats=1, seed=seed))
        distances.append([(told["shares"][d] - exact[d]) / told["se"][d] for d in DOMAINS])
    z = np.array(distances)
    assert (np.abs(z) <= 2).mean() > 0.88
    assert 0.7 < np.sqrt((z**2).mean()) < 1.3


def test_a_correction_is_made_where_asked_for(planted: Any, tmp_path: Path) -> None:
    told = run(planted, tmp_path / "out", settings(correct=True))
    assert told["corrected"] is True
    assert told["shares"] == pytest.approx(told["raw"], abs=0.02)
    assert sum(told["shares"].values()) == pytest.approx(1)


def test_a_correction_of_domains_that_look_alike_is_refused_with_words(
    planted: Any, tmp_path: Path
) -> None:
    alike = {"law": planted.labelled["law"], "medicine": planted.labelled["law"][::-1]}
    told = detect(
        planted.model,
        planted.tokenizer,
        alike,
        settings(correct=True),
        tmp_path / "out",
        identity="planted",
    )
    assert told["corrected"] is False
    assert any("not corrected" in warning for warning in told["warnings"])
    assert any("hardly more than by chance" in warning for warning in told["warnings"])
    assert told["shares"] == told["raw"]


def test_shares_from_losses_favour_what_the_model_reads_best(planted: Any, tmp_path: Path) -> None:
    told = run(planted, tmp_path / "out", settings(judge="losses", losses={"rows": 30}))
    losses = told["judge"]["losses"]
    weights = {d: np.exp(-losses[d]["loss"]) for d in DOMAINS}
    assert told["shares"] == pytest.approx(
        {d: w / sum(weights.values()) for d, w in weights.items()}
    )
    assert max(told["shares"], key=told["shares"].__getitem__) == "law"
    assert told["texts"] == 0
    assert sorted(files(tmp_path / "out")) == ["shares.json"]


# ---- what is written ----------------------------------------------------------------------------


def test_every_text_is_kept_with_its_judgement(planted: Any, tmp_path: Path) -> None:
    told = run(planted, tmp_path / "out", settings())
    assert sorted(files(tmp_path / "out")) == ["shares.json", "texts.jsonl.gz"]
    raw = (tmp_path / "out" / "texts.jsonl.gz").read_bytes()
    assert raw[4:8] == bytes(4), "no time in the gzip header"
    rows = [json.loads(line) for line in gzip.decompress(raw).splitlines()]
    assert len(rows) == 240
    assert [row["repeat"] for row in rows] == [0] * 120 + [1] * 120
    assert list(rows[0]) == ["text", "tokens", "finished", "repeat", "judged"]
    invalid = dict.fromkeys(DOMAINS, 1 / 3)
    sums = np.array([[(row["judged"] or invalid)[d] for d in DOMAINS] for row in rows]).sum(0)
    shares = (sums + 1) / (240 + 3)
    assert told["invalid"] == sum(row["judged"] is None for row in rows)
    assert list(told["shares"].values()) == pytest.approx(shares.tolist(), abs=1e-6)
    assert told["tokens"] == sum(row["tokens"] for row in rows)
    assert "<s>" not in rows[0]["text"]


def test_shares_json_is_what_was_returned(planted: Any, tmp_path: Path) -> None:
    told = run(planted, tmp_path / "out", settings())
    assert json.loads((tmp_path / "out" / "shares.json").read_text()) == told
    assert told["schema"] == "lamina.shares/1"
    assert told["domains"] == list(DOMAINS)
    assert len(told["repeats"]) == 2
    assert set(told["judge"]["confusion"]) == set(DOMAINS)


def test_no_share_is_below_the_floor(planted: Any, tmp_path: Path) -> None:
    told = run(planted, tmp_path / "out", settings(floor=0.2))
    assert min(told["shares"].values()) == pytest.approx(0.2)
    assert told["raw"]["code"] < 0.2


def test_sampling_stops_when_the_shares_are_known(planted: Any, tmp_path: Path) -> None:
    told = run(planted, tmp_path / "out", settings(repeats=9, tolerance=0.035))
    assert 120 < told["texts"] < 9 * 120
    assert max(told["se"].values()) < 0.035
    assert "is below 0.035" in told["stopped"]
    assert "all 2 repeats" in run(planted, tmp_path / "two", settings())["stopped"]
    corrected = run(planted, tmp_path / "corrected", settings(tolerance=0.1, correct=True))
    assert corrected["stopped"].endswith("is below 0.1 (before the correction)")


def test_the_same_detection_gives_the_same_bytes(planted: Any, tmp_path: Path) -> None:
    run(planted, tmp_path / "a", settings())
    run(planted, tmp_path / "b", settings())
    assert files(tmp_path / "a") == files(tmp_path / "b")


# ---- going on -----------------------------------------------------------------------------------


class Killed(BaseException):
    """The power goes."""


@pytest.mark.parametrize("after", [1, 2, 3, 4, 70, 170, 240, 265])
def test_a_killed_detection_goes_on_to_the_same_bytes(
    planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    section = settings(batch_size=50)
    run(planted, tmp_path / "whole", section)
    write, left = Journal._write, [after]

    def dying(journal: Journal, lines: list[dict[str, Any]]) -> None:
        left[0] -= 1
        if left[0] == 0:  # half of what was to be written is on the disk, the last line torn
            write(journal, lines[: len(lines) // 2])
            assert journal._file is not None
            journal._file.write(b'{"text": "half a li')
            raise Killed
        write(journal, lines)

    monkeypatch.setattr(Journal, "_write", dying)
    with pytest.raises(Killed):
        run(planted, tmp_path / "out", section)
    monkeypatch.undo()
    assert sorted(files(tmp_path / "out")) == ["journal.jsonl"]
    told: list[str] = []
    run(planted, tmp_path / "out", section, tell=told.append)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert any("going on with an earlier run" in line for line in told)


def test_a_finished_detection_is_read_not_made_again(planted: Any, tmp_path: Path) -> None:
    first = run(planted, tmp_path / "out", settings())
    told: list[str] = []
    assert run(planted, tmp_path / "out", settings(), tell=told.append) == first
    assert told == [f"{tmp_path / 'out'} already holds this detection"]


def test_a_folder_of_another_detection_is_left_alone(planted: Any, tmp_path: Path) -> None:
    run(planted, tmp_path / "out", settings())
    before = files(tmp_path / "out")
    for section, identity in ((settings(seed=1), "planted"), (settings(), "another model")):
        with pytest.raises(OutputError, match="shares of another detection"):
            run(planted, tmp_path / "out", section, identity=identity)
    assert files(tmp_path / "out") == before


def test_a_journal_of_another_detection_is_left_alone(
    planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 10)
    with pytest.raises(JudgeStopped):
        run(planted, tmp_path / "out", settings())
    before = files(tmp_path / "out")
    with pytest.raises(OutputError, match="unfinished detection with other settings"):
        run(planted, tmp_path / "out", settings(seed=1))
    assert files(tmp_path / "out") == before


class Fickle(Judge):
    """Sure of the first domain until it has had enough."""

    def __init__(self, answers: int) -> None:
        self.left = answers

    def judge(self, texts: Sequence[str]) -> Iterator[Judgement]:
        for _ in texts:
            if self.left == 0:
                raise JudgeStopped("The judge is gone.")
            self.left -= 1
            yield (1.0, 0.0, 0.0)

    def facts(self) -> dict[str, Any]:
        return {}


def stop_after(monkeypatch: pytest.MonkeyPatch, answers: int) -> None:
    monkeypatch.setattr(sampling, "make_judge", lambda *args, **given: Fickle(answers))


def test_what_a_judge_that_stops_has_judged_is_kept(
    planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    stop_after(monkeypatch, 10)
    with pytest.raises(JudgeStopped, match=r"gone\.\n10 of 24 labelled rows are judged and kept"):
        run(planted, out, settings())
    stop_after(monkeypatch, 14 + 30)
    with pytest.raises(
        JudgeStopped, match=r"30 of 120 texts are judged and kept in .*out\. Run the"
    ):
        run(planted, out, settings())
    stop_after(monkeypatch, 240 - 30)
    assert run(planted, out, settings())["texts"] == 240, "not one text was asked about twice"


# ---- bad input ----------------------------------------------------------------------------------


def test_a_model_that_only_writes_empty_texts_is_told(planted: Any, tmp_path: Path) -> None:
    import copy

    import torch

    mute = copy.deepcopy(planted.model)
    with torch.no_grad():  # whatever comes in, the end token is by far the likeliest
        mute.model.norm.weight.zero_()
        mute.lm_head.weight.zero_()
        mute.lm_head = torch.nn.Linear(32, 32)
        mute.lm_head.bias.zero_()[1] = 100.0
        mute.lm_head.weight.zero_()
    with pytest.raises(DataError, match=r"All 120 texts .* are empty \(120 ended by themselves\)"):
        detect(
            mute,
            planted.tokenizer,
            planted.labelled,
            settings(),
            tmp_path / "out",
            identity="mute",
        )


def test_some_empty_texts_count_as_invalid(
    planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sampling.text_of
    numbers = iter(range(10**6))

    def some_empty(ids: Sequence[int], subject: Any) -> Any:
        found = real(ids, subject)
        return type(found)(" \n", 1, True) if next(numbers) % 4 == 0 else found

    monkeypatch.setattr(sampling, "text_of", some_empty)
    told = run(planted, tmp_path / "out", settings())
    empty = told["empty"]
    assert 60 <= empty == told["invalid"] < 65, "every fourth, and those of the model's own"
    (warning,) = told["warnings"]
    assert f"{empty} of 240 texts have no judgement ({empty} of them are empty)" in warning
    assert told["shares"]["code"] > 1 / 3 / 4


def test_a_judge_without_one_usable_answer_is_told(
    planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Fickle):
        def judge(self, texts: Sequence[str]) -> Iterator[Judgement]:
            yield from (None for _ in texts)

    monkeypatch.setattr(sampling, "make_judge", lambda *args, **given: Silent(0))
    with pytest.raises(DataError, match="None of 240 texts has a judgement"):
        run(planted, tmp_path / "out", settings())


def test_a_tokenizer_without_bos_takes_eos(
    planted: Any, tmp_path: Path, untrained: Callable[..., Any], word_tokenizer: Callable[..., Any]
) -> None:
    told = detect(
        untrained(),
        word_tokenizer(bos=False),
        planted.labelled,
        settings(repeats=1),
        tmp_path / "out",
        identity="x",
    )
    assert told["texts"] == 120


def test_a_tokenizer_without_bos_and_eos_is_refused(
    planted: Any, tmp_path: Path, word_tokenizer: Callable[..., Any]
) -> None:
    bare = word_tokenizer(bos=False, eos=False)
    with pytest.raises(RecipeError, match="no BOS and no EOS"):
        detect(planted.model, bare, planted.labelled, settings(), tmp_path / "o", identity="x")
    assert not (tmp_path / "o").exists()


def test_a_start_token_beyond_the_embedding_is_refused(
    planted: Any, tmp_path: Path, untrained: Callable[..., Any], word_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<start>"})
    small = untrained(vocab=27)
    with pytest.raises(RecipeError, match=r"<start> has the id 27, but .* 27 rows"):
        detect(small, tokenizer, planted.labelled, settings(), tmp_path / "o", identity="x")


@pytest.mark.parametrize(
    ("domains", "floor", "message"),
    [(("law",), 0, "There is 1 domain"), (DOMAINS, 0.4, "3 domains cannot all have so much")],
)
def test_domains_that_cannot_be_shared_out_are_refused(
    planted: Any, tmp_path: Path, domains: tuple[str, ...], floor: float, message: str
) -> None:
    labelled = {domain: planted.labelled[domain] for domain in domains}
    with pytest.raises(RecipeError, match=message):
        detect(
            planted.model,
            planted.tokenizer,
            labelled,
            settings(floor=floor),
            tmp_path / "out",
            identity="x",
        )


def test_too_few_rows_for_losses_are_told(planted: Any, tmp_path: Path) -> None:
    labelled = {**planted.labelled, "code": ["one row", " "]}
    with pytest.raises(DataError, match="code has 1 different texts"):
        detect(
            planted.model,
            planted.tokenizer,
            labelled,
            settings(judge="losses"),
            tmp_path / "out",
            identity="x",
        )


def test_texts_are_no_longer_than_the_model_reads(planted: Any, tmp_path: Path) -> None:
    told: list[str] = []
    run(planted, tmp_path / "out", settings(max_new_tokens=500, repeats=1), tell=told.append)
    assert "the model reads 32 tokens, so texts have 32 at most" in told


def test_two_runs_do_not_write_one_folder(planted: Any, tmp_path: Path) -> None:
    from lamina.versatune.journal import open_journal

    with (
        open_journal(tmp_path / "out", "another"),
        pytest.raises(OutputError, match="another run is writing"),
    ):
        run(planted, tmp_path / "out", settings())
