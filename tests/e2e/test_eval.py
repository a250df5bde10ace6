"""`lamina eval --tasks` through the command line: results, samples, page, resume, comparison."""

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eval_kit as kit
import pytest

Lamina = Callable[..., Any]
TASKS = ("--tasks", "arc_easy,gsm8k,wikitext2", "--few-shot", 1, "--limit", 3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def done(lamina: Lamina, data: Path, tmp_path: Path) -> Path:
    """A result of two models on three tasks, with losses on a text."""
    text = kit.write_rows(tmp_path / "law.jsonl", [{"text": "The court was asked."}] * 3)
    out = tmp_path / "eval.json"
    told = lamina(
        "eval", kit.BASE, kit.INSTRUCT, *TASKS, "--data", data, "--text", text, "--out", out
    )
    assert told.code == 0, told.err
    for word in ("arc_easy", "gsm8k", "wikitext2", "no difference shown", "law"):
        assert word in told.out, told.out
    return out


def test_two_models_on_three_tasks_give_a_result_samples_and_a_page(done: Path) -> None:
    result = json.loads(done.read_text())
    assert result["schema"] == "lamina.evaluation/1"
    assert result["order"] == ["base", "instruct"]
    assert set(result["tasks"]) == {"arc_easy", "gsm8k", "wikitext2"}
    for name in result["order"]:
        for task, entry in result["results"][name].items():
            assert entry["items"] == 3, task
            for metric in entry["metrics"].values():
                assert set(metric) == {"value", "se"}
    assert {row["task"] for row in result["comparisons"]} == set(result["tasks"])
    assert result["forgetting"][0]["domain"] == "law"
    assert result["texts"]["domains"] == ["law"]
    samples = kit.read_samples(done.with_name(result["samples"]))
    assert len(samples) == 2 * 3 * 3
    written = next(line for line in samples if line["task"] == "gsm8k")
    assert written["prompt"].count("Question:") == 2  # one example, one question
    assert len(written["raw"]["texts"]) == 1
    content = done.with_name(result["samples"]).read_bytes()
    assert result["samples_sha256"] == hashlib.sha256(content).hexdigest()
    assert "arc_easy" in done.with_suffix(".html").read_text()
    assert not done.with_name("eval.json.partial").exists()


def test_the_same_command_again_gives_the_same_bytes(
    done: Path, lamina: Lamina, data: Path, tmp_path: Path
) -> None:
    names = ("eval.json", "eval.samples.jsonl.gz", "eval.html")
    before = {name: done.with_name(name).read_bytes() for name in names}
    told = lamina(
        "eval", kit.BASE, kit.INSTRUCT, *TASKS, "--data", data, "--text", tmp_path / "law.jsonl",
        "--out", done,
    )  # fmt: skip
    assert told.code == 0, told.err
    assert {name: done.with_name(name).read_bytes() for name in names} == before


def test_a_stopped_run_goes_on_and_ends_at_the_same_bytes(
    lamina: Lamina, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.jobs.evaluate_journal import Journal

    line = ("eval", kit.INSTRUCT, *TASKS, "--data", data, "--batch", 300)
    assert lamina(*line, "--out", tmp_path / "whole.json").code == 0
    added = Journal.add
    calls = 0

    def stop(self: Journal, portion: str, raws: Any) -> None:
        nonlocal calls
        added(self, portion, raws)
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    out = tmp_path / "part.json"
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", stop)
        told = lamina(*line, "--out", out)
    assert told.code == 130
    assert "Run the same command again to go on" in told.err
    assert not out.exists()
    begun = len(list((tmp_path / "part.json.partial").iterdir()))
    assert begun
    counted: list[str] = []

    def count(self: Journal, portion: str, raws: Any) -> None:
        counted.append(portion)
        added(self, portion, raws)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", count)
        assert lamina(*line, "--out", out).code == 0
    whole = json.loads((tmp_path / "whole.json").read_text())
    part = json.loads(out.read_text())
    assert part.pop("samples") != whole.pop("samples")
    assert part == whole
    assert (tmp_path / "part.samples.jsonl.gz").read_bytes() == (
        tmp_path / "whole.samples.jsonl.gz"
    ).read_bytes()
    with monkeypatch.context() as patched:
        calls = -1000
        patched.setattr(Journal, "add", stop)
        assert lamina(*line, "--out", tmp_path / "again.json").code == 0
    assert len(counted) == calls + 1000 - 3, "what was measured before the stop was measured again"


def test_results_of_two_runs_are_compared_item_by_item(
    lamina: Lamina, data: Path, tmp_path: Path
) -> None:
    line = ("--tasks", "arc_easy", "--data", data, "--out")
    assert lamina("eval", kit.BASE, *line, tmp_path / "base.json").code == 0
    told = lamina(
        "eval", kit.INSTRUCT, *line, tmp_path / "instruct.json",
        "--compare", tmp_path / "base.json",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "no difference shown" in told.out
    told = lamina("eval", "--compare", tmp_path / "base.json", tmp_path / "instruct.json")
    assert told.code == 0, told.err
    assert "no difference shown" in told.out


def test_runs_over_different_items_are_refused_before_anything_is_measured(
    lamina: Lamina, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("eval", kit.BASE, "--tasks", "arc_easy", "--data", data)
    assert lamina(*line, "--limit", 4, "--out", tmp_path / "four.json").code == 0
    assert lamina(*line, "--limit", 5, "--out", tmp_path / "five.json").code == 0
    told = lamina("eval", "--compare", tmp_path / "four.json", tmp_path / "five.json")
    assert told.code == 2
    assert "arc_easy" in told.err
    assert "4" in told.err
    assert "5" in told.err
    monkeypatch.setattr("lamina.evaluate.models.load_model", lambda *a, **k: pytest.fail("loaded"))
    told = lamina(*line, "--out", tmp_path / "all.json", "--compare", tmp_path / "four.json")
    assert told.code == 2
    assert "nothing was measured" in told.err
    assert not (tmp_path / "all.json").exists()


def test_a_user_s_own_rows_are_a_task(lamina: Lamina, tmp_path: Path) -> None:
    rows = [{"question": f"{n} + {n} =", "choices": ["1", str(2 * n)], "answer": 1} for n in (2, 3)]
    file = kit.write_rows(tmp_path / "sums.jsonl", rows)
    out = tmp_path / "own.json"
    told = lamina("eval", kit.BASE, "--task-file", file, "--out", out)
    assert told.code == 0, told.err
    assert json.loads(out.read_text())["results"]["base"]["sums"]["items"] == 2


def test_written_programs_run_in_the_sandbox_and_are_judged(
    lamina: Lamina, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "code.json"
    line = ("eval", kit.INSTRUCT, "--tasks", "humaneval", "--data", data)
    told = lamina(*line, "--cut", "--allow-code", "--out", out)
    assert told.code == 0, told.err
    result = json.loads(out.read_text())
    assert result["sandbox"]
    if result["skipped"]:
        pytest.skip(f"this machine has no sandbox that is enough: {result['sandbox']}")
    assert result["results"]["instruct"]["humaneval"]["metrics"]["pass@1"]["value"] == 0.0
    samples = kit.read_samples(out.with_name(result["samples"]))
    assert [line["raw"]["verdicts"][0]["passed"] for line in samples] == [False, False]


def test_code_needs_the_user_s_word(lamina: Lamina, data: Path, tmp_path: Path) -> None:
    told = lamina(
        "eval", kit.BASE, "--tasks", "humaneval,mbpp", "--data", data, "--out", tmp_path / "x.json"
    )
    assert told.code == 2
    assert "--allow-code" in told.err
    assert "humaneval, mbpp" in told.err


def test_where_no_sandbox_is_enough_the_task_is_skipped_and_says_so(
    lamina: Lamina, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from lamina.evaluate import sandbox

    weak = replace(sandbox.probe(), enough=False, why="files are open to the program")
    monkeypatch.setattr(sandbox, "probe", lambda: weak)
    monkeypatch.setattr(sandbox, "Sandbox", lambda *a, **k: pytest.fail("a program was run"))
    out = tmp_path / "x.json"
    told = lamina(
        "eval", kit.BASE, "--tasks", "arc_easy,humaneval", "--data", data, "--allow-code",
        "--out", out,
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "skipped" in told.out
    assert "files are open" in json.loads(out.read_text())["skipped"]["humaneval"]


def test_chat_models_are_asked_through_their_template(
    lamina: Lamina, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "chat.json"
    line = ("eval", kit.INSTRUCT, "--tasks", "gsm8k", "--few-shot", 0, "--data", data, "--chat")
    assert lamina(*line, "--out", out).code == 0
    samples = kit.read_samples(tmp_path / "chat.samples.jsonl.gz")
    assert all(line["prompt"].startswith("<|user|>\n") for line in samples)
    assert all(line["prompt"].endswith("<|assistant|>\n") for line in samples)
    bare = tmp_path / "bare"
    shutil.copytree(kit.INSTRUCT, bare)
    for name in ("chat_template.jinja",):
        (bare / name).unlink(missing_ok=True)
    config = json.loads((bare / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    told = lamina("eval", bare, *line[2:], "--out", tmp_path / "bare.json")
    assert told.code == 2
    assert "no chat template" in told.err


def test_drawn_answers_give_pass_at_k_and_follow_the_seed(
    lamina: Lamina, data: Path, tmp_path: Path
) -> None:
    def texts(seed: int, name: str) -> list[list[str]]:
        told = lamina(
            "eval", kit.INSTRUCT, "--tasks", "gsm8k", "--few-shot", 0, "--data", data,
            "--samples", 2, "--temperature", 0.8, "--seed", seed,
            "--out", tmp_path / f"{name}.json",
        )  # fmt: skip
        assert told.code == 0, told.err
        return [line["raw"]["texts"] for line in kit.read_samples(
            tmp_path / f"{name}.samples.jsonl.gz")]  # fmt: skip

    first = texts(1, "a")
    warnings = json.loads((tmp_path / "a.json").read_text())["warnings"]
    assert any("gsm8k: of 2 answers to each question the first counts" in w for w in warnings)
    assert all(len(pair) == 2 for pair in first)
    assert texts(1, "b") == first
    assert texts(2, "c") != first


def test_a_batch_that_does_not_fit_the_memory_is_halved(
    lamina: Lamina, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from lamina.jobs import evaluate_parts as parts

    answer = parts.answer_task

    def small(planned: Any, folder: Any, key: Any, watch: Any) -> Any:
        if key["settings"]["batch_tokens"] > 1024:
            raise torch.OutOfMemoryError
        return answer(planned, folder, key, watch)

    monkeypatch.setattr(parts, "answer_task", small)
    line = ("eval", kit.BASE, "--tasks", "arc_easy", "--data", data, "--limit", 2)
    told = lamina(*line, "--out", tmp_path / "a.json")
    assert told.code == 0, told.err
    assert "now 1024 tokens a batch" in told.err
    told = lamina(*line, "--batch", 2048, "--out", tmp_path / "b.json")
    assert told.code == 2
    assert "does not fit the memory" in told.err


def test_any_other_task_goes_to_the_harness(lamina: Lamina, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    rows = kit.write_rows(tmp_path / "rows.jsonl", [
        {"question": "Is water wet?", "choices": ["yes", "no"], "answer": 0},
        {"question": "Is fire cold?", "choices": ["yes", "no"], "answer": 1},
    ])  # fmt: skip
    task = tmp_path / "wet.yaml"
    task.write_text(
        "task: wet\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {rows}\noutput_type: multiple_choice\ntest_split: test\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: answer\ndoc_to_choice: choices\n'
        "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
    )
    out = tmp_path / "wet.json"
    told = lamina("eval", kit.INSTRUCT, "--harness", task, "--out", out)
    assert told.code == 0, told.err
    assert json.loads(out.read_text())["harness"]["instruct"]["wet"]["acc"]["value"] in (0, 0.5, 1)
    assert "wet" in told.out


def test_answers_of_a_model_whose_small_files_changed_are_not_taken_over(
    lamina: Lamina, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.jobs.evaluate_journal import Journal

    model = tmp_path / "model"
    shutil.copytree(kit.INSTRUCT, model)
    line = ("eval", model, "--tasks", "gsm8k", "--few-shot", 0, "--data", data, "--limit", 1)
    added = Journal.add
    fresh: list[str] = []

    def stop(self: Journal, portion: str, raws: Any) -> None:
        fresh.append(portion)
        added(self, portion, raws)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", stop)
    out = tmp_path / "eval.json"
    assert lamina(*line, "--out", out).code == 130
    config = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": 5}))
    assert lamina(*line, "--out", out).code == 130
    assert fresh == ["0", "0"], "answers of other settings for generation were taken"
    assert lamina(*line, "--out", out).code == 0
    assert fresh == ["0", "0"]


def test_two_runs_do_not_write_one_result_at_once(
    lamina: Lamina, data: Path, tmp_path: Path
) -> None:
    from lamina.weights.writer import locked

    out = tmp_path / "eval.json"
    line = ("eval", kit.BASE, "--tasks", "arc_easy", "--data", data, "--limit", 1, "--out", out)
    with locked(out):
        told = lamina(*line)
    assert told.code == 2
    assert "another lamina is writing" in told.err
    assert lamina(*line).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "eval.html", "eval.json", "eval.samples.jsonl.gz",
    ]  # fmt: skip


def test_the_reference_may_be_written_otherwise_than_the_model(
    lamina: Lamina, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "eval.json"
    line = ("--tasks", "arc_easy", "--data", data, "--limit", 2, "--out", out)
    other = kit.BASE.parent / "instruct" / ".." / "base"
    told = lamina("eval", kit.INSTRUCT, kit.BASE, "--reference", other, *line)
    assert told.code == 0, told.err
    result = json.loads(out.read_text())
    assert result["order"] == ["instruct", "base"]
    assert result["settings"]["reference"] == "base"
    link = tmp_path / "link"
    link.symlink_to(kit.BASE)
    told = lamina("eval", kit.BASE, link, *line)
    assert told.code == 2
    assert "are the same folder" in told.err


def test_what_speaks_against_a_comparison_is_told_before_a_model_is_loaded(
    lamina: Lamina, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = tmp_path / "earlier.json"
    line = ("eval", kit.INSTRUCT, "--tasks", "gsm8k", "--few-shot", 0, "--data", data)
    assert lamina(*line, "--limit", 1, "--out", earlier).code == 0
    monkeypatch.setattr("lamina.evaluate.models.load_model", lambda *a, **k: pytest.fail("loaded"))
    against = ("--limit", 1, "--out", tmp_path / "now.json", "--compare", earlier)
    for flags, words in (
        (("--chat",), "chat off in earlier.json, on in now.json"),
        (("--temperature", 0.5), "temperature none in earlier.json, 0.5 in now.json"),
        (("--max-length", 4096), "made for 1024 positions"),
    ):
        told = lamina(*line, *against, *flags)
        assert told.code == 2
        assert words in told.err
    samples = earlier.with_name("earlier.samples.jsonl.gz")
    with gzip.open(samples, "ab") as file:
        file.write(b"{}\n")
    told = lamina(*line, *against)
    assert told.code == 2
    assert "is not the file that was written with earlier.json" in told.err
    samples.unlink()
    told = lamina(*line, *against)
    assert told.code == 2
    assert "earlier.samples.jsonl.gz is missing" in told.err


def test_a_chat_template_that_fails_is_one_clear_error(
    lamina: Lamina, data: Path, tmp_path: Path
) -> None:
    for number, template in enumerate(("{% if %}", "{{ messages + 1 }}")):
        model = tmp_path / f"model{number}"
        shutil.copytree(kit.INSTRUCT, model)
        (model / "chat_template.jinja").write_text(template)
        told = lamina("eval", model, "--tasks", "arc_easy", "--data", data, "--chat")
        assert told.code == 2, template
        assert f"the chat template of model{number} fails" in told.err


def test_a_run_that_measured_nothing_leaves_nothing(lamina: Lamina, tmp_path: Path) -> None:
    file = kit.write_rows(tmp_path / "long.jsonl", [{"prompt": "x " * 3000, "answer": "y"}])
    told = lamina("eval", kit.BASE, "--task-file", file, "--out", tmp_path / "eval.json")
    assert told.code == 2
    assert "reads 1024 tokens" in told.err
    assert list(tmp_path.iterdir()) == [file]


def test_flags_that_say_nothing_of_texts_are_told(lamina: Lamina, tmp_path: Path) -> None:
    file = kit.write_rows(tmp_path / "law.jsonl", [{"text": "The court was asked."}])
    told = lamina("eval", kit.BASE, "--text", file, "--limit", 1, "--few-shot", 0, "--chat")
    assert told.code == 0, told.err
    assert "--limit, --few-shot, --chat left aside" in told.err
    assert "left aside" not in lamina("eval", kit.BASE, "--text", file).err
