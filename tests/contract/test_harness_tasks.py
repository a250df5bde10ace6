"""What we need of lm-evaluation-harness 0.4.13: its requests and its verdicts, item by item.

The harness's own task files are loaded and given our rows; its requests (contexts, continuations,
stop strings) must be ours letter by letter, with and without examples, limited and not, as text and
through a chat template. Then both judge the same made-up answers.
"""

import gzip
import inspect
import json
import math
import random
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lamina.evaluate.nouns import ChoiceItem, Item, TextItem, WriteItem
from lamina.evaluate.tasks import TASKS, Chosen, build_items

pytest.importorskip("lm_eval")

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
Row = dict[str, Any]
SUBJECT = "high_school_physics"

FILES = {
    "wikitext2": "wikitext/wikitext.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
    "mmlu": f"mmlu/default/mmlu_{SUBJECT}.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "lambada": "lambada/lambada_openai.yaml",
    "truthfulqa": "truthfulqa/truthfulqa_mc1.yaml",
}
PROGRAMS = {"humaneval": "humaneval/humaneval.yaml", "mbpp": "mbpp/mbpp.yaml"}
MC2 = "truthfulqa/truthfulqa_mc2.yaml"
EXAMPLES_TOO = (
    "gsm8k",
    "mmlu",
    "arc_easy",
    "arc_challenge",
    "hellaswag",
    "piqa",
    "winogrande",
    "openbookqa",
    "boolq",
)
"""Tasks to which both put examples; the others have none, or none but their test rows."""
ODD = ("plain", "trailing blank ", " leading", "Zürich – 東京 😀", "two\nlines", "1,000", "$5", "#")


def harness_task(file: str, tests: Sequence[Row], shots: Sequence[Row], few_shot: int | None):
    """The harness's task over these rows, prepared as its evaluator prepares it."""
    from datasets import Dataset
    from lm_eval import tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(Path(tasks.__file__).parent / file)
    tested = config.get("test_split") or config["validation_split"]
    rows = {name: Dataset.from_list(list(shots)) for name in ("train", "validation", "dev")}
    rows[tested] = Dataset.from_list(list(tests))
    config["custom_dataset"] = lambda **_: rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = ConfigurableTask(config=config)
    if few_shot is not None and task.config.num_fewshot != 0:
        task.set_config("num_fewshot", few_shot)
    task.set_fewshot_seed(1234)
    return task


def requests(task: Any, **how: Any) -> list[list[Any]]:
    """Its requests, those of one row together."""
    task.build_all_requests(**how)
    by_row: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_row.setdefault(instance.doc_id, []).append(instance)
    return [by_row[number] for number in sorted(by_row)]


def render(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
    turns = "".join(f"<{one['role']}>{one['content']}</>\n" for one in messages)
    return turns + ("<assistant>" if add_generation_prompt else "")


def write(folder: Path, task: str, tests: Sequence[Row], shots: Sequence[Row]) -> Path:
    """Rows under the names that are looked for, in turn as each kind of file."""
    from lamina.evaluate.tasks.registry import DEFINITIONS

    definition = DEFINITIONS[task]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in tests]
    path = folder / f"{definition.test.files[0]}.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    if definition.shots is not None:
        (folder / "bench").mkdir(exist_ok=True)
        with gzip.open(folder / "bench" / f"{definition.shots.files[0]}.json.gz", "wt") as file:
            json.dump(list(shots), file)
    return folder


def check_requests(items: Sequence[Item], theirs: Sequence[Sequence[Any]]) -> None:
    assert len(items) == len(theirs)
    for item, instances in zip(items, theirs, strict=True):
        arguments = [instance.args for instance in instances]
        if isinstance(item, ChoiceItem):
            assert [(pair.context, pair.continuation) for pair in item.pairs] == arguments
        elif isinstance(item, WriteItem):
            ((prompt, how),) = arguments
            assert item.prompt == prompt
            assert list(item.stops) == how["until"]
            assert item.max_tokens == how.get("max_gen_toks", 256)
        else:
            assert [(item.document.text,)] == arguments


def rows_of(task: str) -> tuple[list[Row], list[Row]]:
    """Test rows and few-shot rows in the hub's fields, with odd texts among them."""
    made = [ROWS[task](number, ODD[number % len(ODD)]) for number in range(2 * len(ODD))]
    return made[: len(ODD)], made[len(ODD) :]


def arc_row(number: int, odd: str) -> Row:
    labels = ["A", "B", "C", "D"] if number % 2 else ["1", "2", "3"]
    texts = [f"{odd}", f"{odd} {number}", "[a, 'list']", "x" * number + "y"][: len(labels)]
    return {
        "id": f"row-{number}",
        "question": f"{number}. What is {odd}",
        "choices": {"text": texts, "label": labels},
        "answerKey": labels[number % len(labels)],
    }


def openbookqa_row(number: int, odd: str) -> Row:
    row = arc_row(2 * number + 1, odd)
    row["question_stem"] = row.pop("question")
    row["answerKey"] = " " * (number % 2) + row["answerKey"]
    return row


def hellaswag_row(number: int, odd: str) -> Row:
    return {
        "ind": 3,
        "activity_label": f" Label {odd}",
        "ctx_a": f"A man [header] {odd} sits.  [title] He waits  [sub",
        "ctx_b": "" if number == 3 else f"{odd}HE Ünder",
        "endings": [f"{odd}{number}", " [title] goes  [step] on", "stays   here", "[x]y"],
        "label": str(number % 4),
    }


def winogrande_row(number: int, odd: str) -> Row:
    end = "" if number in (2, 11) else f" is {odd}"
    return {
        "sentence": f"Ann{number} met Bea as _{end}",
        "option1": f"Ann {odd}",
        "option2": "Bea",
        "answer": str(1 + number % 2),
    }


def truthfulqa_row(number: int, odd: str) -> Row:
    true, false = [f"It is {odd}", f"Yes {number}"], ["No", f"Never {odd}", "x"]
    extra = [f"only here {number}"] if number % 2 else []
    return {
        "question": f"{odd}{number}?",
        "mc1_targets": {
            "choices": [true[0], *false, *extra],
            "labels": [1, 0, 0, 0] + [0] * len(extra),
        },
        "mc2_targets": {"choices": [*true, *false, "No"], "labels": [1, 1, 0, 0, 0, 0]},
    }


ROWS = {
    "wikitext2": lambda n, odd: {"page": f' = {odd} {n} = \n \n It cost 3 @.@ 5 ; " {odd} " . \n '},
    "gsm8k": lambda n, odd: {
        "question": f"{odd} How many are {n}?",
        "answer": f"They are {odd} <<1+1=2>>\n#### {('1,234', '-7', '$18.', '0.5')[n % 4]}{n}",
    },
    "mmlu": lambda n, odd: {
        "subject": SUBJECT,
        "question": f" {n} {odd}\n",
        "choices": [odd, "b ", " c", f"d{n}"],
        "answer": n % 4,
    },
    "arc_easy": arc_row,
    "arc_challenge": arc_row,
    "hellaswag": hellaswag_row,
    "piqa": lambda n, odd: {
        "goal": f"{odd}{n}",
        "sol1": f"{odd} 1",
        "sol2": f"two, {odd} {n}",
        "label": n % 2,
    },
    "winogrande": winogrande_row,
    "openbookqa": openbookqa_row,
    "boolq": lambda n, odd: {
        "passage": f"Title -- {odd}",
        "question": f"is it {n}",
        "label": n % 2,
        "idx": n,
    },
    "lambada": lambda n, odd: {"text": "word" if n == 3 else f"{n} He said  {odd}"},
    "truthfulqa": truthfulqa_row,
}


def ours(task: str, folder: Path, few_shot: int | None = None, **how: Any) -> Chosen:
    return build_items(TASKS[task], data=folder, few_shot=few_shot, **how)


@pytest.mark.parametrize("task", [name for name in FILES if name != "truthfulqa"])
def test_the_harness_asks_the_same_by_default(task: str, tmp_path: Path) -> None:
    tests, shots = rows_of(task)
    chosen = ours(task, write(tmp_path, task, tests, shots))
    stock = harness_task(FILES[task], tests, shots, None)
    assert chosen.few_shot == (stock.config.num_fewshot or 0)
    check_requests(chosen.items, requests(stock))


@pytest.mark.parametrize("few_shot", [1, 3, 5])
@pytest.mark.parametrize("task", EXAMPLES_TOO)
def test_the_harness_shows_the_same_examples(task: str, few_shot: int, tmp_path: Path) -> None:
    tests, shots = rows_of(task)
    chosen = ours(task, write(tmp_path, task, tests, shots), few_shot)
    theirs = requests(harness_task(FILES[task], tests, shots, few_shot))
    check_requests(chosen.items, theirs)
    assert len({item_text(item) for item in chosen.items}) == len(tests)


@pytest.mark.parametrize("task", EXAMPLES_TOO)
def test_the_harness_asks_the_same_through_a_template(task: str, tmp_path: Path) -> None:
    tests, shots = rows_of(task)
    folder = write(tmp_path, task, tests, shots)
    for few_shot in (0, 3):
        chosen = ours(task, folder, few_shot, chat=render)
        theirs = requests(
            harness_task(FILES[task], tests, shots, few_shot),
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            chat_template=render,
        )
        check_requests(chosen.items, theirs)


def test_a_template_leaves_texts_and_last_words_as_the_harness_does(tmp_path: Path) -> None:
    for task in ("wikitext2", "lambada"):
        tests, shots = rows_of(task)
        chosen = ours(task, write(tmp_path, task, tests, shots), chat=render)
        theirs = requests(
            harness_task(FILES[task], tests, shots, None),
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            chat_template=render,
        )
        check_requests(chosen.items, theirs)


def test_examples_are_turns_and_drawn_by_1234_in_the_harness_unless_asked_otherwise() -> None:
    from lm_eval import simple_evaluate

    defaults = inspect.signature(simple_evaluate).parameters
    assert defaults["fewshot_as_multiturn"].default is True
    assert defaults["fewshot_random_seed"].default == 1234


def test_a_limit_takes_the_first_rows_with_the_examples_they_have_in_the_whole(
    tmp_path: Path,
) -> None:
    tests, shots = rows_of("gsm8k")
    folder = write(tmp_path, "gsm8k", tests, shots)
    limited = ours("gsm8k", folder, 3, limit=4)
    assert limited.items == ours("gsm8k", folder, 3).items[:4]
    stock = harness_task(FILES["gsm8k"], tests, shots, 3)
    check_requests(limited.items, requests(stock, limit=4))


@pytest.mark.parametrize("chat", [False, True])
def test_truthfulqa_is_both_of_the_harnesss_forms(chat: bool, tmp_path: Path) -> None:
    tests, shots = rows_of("truthfulqa")
    chosen = ours(
        "truthfulqa", write(tmp_path, "truthfulqa", tests, shots), 3, chat=render if chat else None
    )
    assert chosen.few_shot == 0
    how = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": render}
    for form, file in enumerate((FILES["truthfulqa"], MC2)):
        theirs = requests(harness_task(file, tests, shots, 3), **(how if chat else {}))
        for item, instances in zip(chosen.items, theirs, strict=True):
            assert isinstance(item, ChoiceItem)
            pairs = [item.pairs[index] for index in item.asked[form]]
            arguments = [instance.args for instance in instances]
            assert [(pair.context, pair.continuation) for pair in pairs] == arguments


def item_text(item: Item) -> str:
    if isinstance(item, ChoiceItem):
        return item.pairs[0].context
    return item.prompt if isinstance(item, WriteItem) else item.document.text


# Verdicts over made-up answers.


def made_up(number: int, rng: random.Random) -> list[tuple[float, bool]]:
    """Log-likelihoods, ties among them, and what is greedy."""
    values = [-rng.choice((0.5, 1.0, 2.0, rng.random() * 40)) for _ in range(number)]
    return [(value, rng.random() < 0.5) for value in values]


def values_of(chosen: Chosen, raws: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Each item's metrics as the harness has them: not summed yet."""
    judged = [chosen.task.judge(item, raw) for item, raw in zip(chosen.items, raws, strict=True)]
    return [{name: total / count for name, (total, count) in one.items()} for one in judged]


def over_all(chosen: Chosen, raws: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    judged = [chosen.task.judge(item, raw) for item, raw in zip(chosen.items, raws, strict=True)]
    return {
        metric.name: metric.of(
            math.fsum(one[metric.name][0] for one in judged)
            / math.fsum(one[metric.name][1] for one in judged)
        )
        for metric in chosen.task.metrics
    }


CHOOSING = [*EXAMPLES_TOO[1:]]


@pytest.mark.parametrize("task", CHOOSING)
def test_accuracies_are_the_harnesss(task: str, tmp_path: Path) -> None:
    tests, shots = rows_of(task)
    chosen = ours(task, write(tmp_path, task, tests, shots))
    stock = harness_task(FILES[task], tests, shots, 0)
    docs = list(stock.eval_docs)
    seen = set()
    for seed in range(40):
        rng = random.Random(seed)
        answers = [made_up(len(item.pairs), rng) for item in chosen.items]  # type: ignore[union-attr]
        raws = [
            {"logprobs": [one for one, _ in some], "greedy": [two for _, two in some], "cut": 0}
            for some in answers
        ]
        theirs = [stock.process_results(doc, some) for doc, some in zip(docs, answers, strict=True)]
        assert values_of(chosen, raws) == theirs
        seen |= {tuple(sorted(one.items())) for one in theirs}
    wanted = (
        {"acc", "acc_norm"}
        if task in ("arc_easy", "arc_challenge", "hellaswag", "piqa", "openbookqa")
        else {"acc"}
    )
    assert {metric.name for metric in chosen.task.metrics} == wanted
    assert len(seen) == 2 ** len(wanted), "every verdict was met"


def test_an_empty_choice_is_judged_as_the_harness_does(tmp_path: Path) -> None:
    import numpy

    tests, shots = rows_of("piqa")
    tests = [*tests, {"goal": "g", "sol1": "full", "sol2": "", "label": 1}]
    chosen = ours("piqa", write(tmp_path, "piqa", tests, shots))
    stock = harness_task(FILES["piqa"], tests, shots, 0)
    check_requests(chosen.items, requests(stock))
    doc = list(stock.eval_docs)[-1]
    for logprobs in ((-1.0, -5.0), (-5.0, -1.0), (-1.0, 0.0), (0.0, 0.0)):
        with numpy.errstate(all="ignore"):
            theirs = stock.process_results(doc, [(one, False) for one in logprobs])
        raw = {"logprobs": list(logprobs), "greedy": [False, False], "cut": 0}
        judged = chosen.task.judge(chosen.items[-1], raw)
        assert {name: total for name, (total, _) in judged.items()} == theirs, logprobs


def test_truthfulqas_two_metrics_are_the_harnesss(tmp_path: Path) -> None:
    tests, shots = rows_of("truthfulqa")
    chosen = ours("truthfulqa", write(tmp_path, "truthfulqa", tests, shots))
    forms = [harness_task(file, tests, shots, 0) for file in (FILES["truthfulqa"], MC2)]
    firsts = set()
    for seed in range(40):
        rng = random.Random(seed)
        for number, item in enumerate(chosen.items):
            assert isinstance(item, ChoiceItem)
            answers = made_up(len(item.pairs), rng)
            first, second = (
                form.process_results(tests[number], [answers[index] for index in asked])["acc"]
                for form, asked in zip(forms, item.asked, strict=True)
            )
            judged = chosen.task.judge(item, {"logprobs": [one for one, _ in answers]})
            assert judged["mc1"] == (first, 1.0)
            assert judged["mc2"][0] == pytest.approx(float(second), rel=1e-12, abs=1e-15)
            firsts.add(first)
    assert firsts == {0.0, 1.0}


def test_lambadas_metrics_are_the_harnesss(tmp_path: Path) -> None:
    tests, shots = rows_of("lambada")
    chosen = ours("lambada", write(tmp_path, "lambada", tests, shots))
    stock = harness_task(FILES["lambada"], tests, shots, 0)
    rng = random.Random(0)
    answers = [made_up(1, rng) for _ in tests]
    raws = [{"logprobs": [some[0][0]], "greedy": [some[0][1]]} for some in answers]
    theirs = [stock.process_results(doc, some) for doc, some in zip(tests, answers, strict=True)]
    mine = over_all(chosen, raws)
    for name in ("perplexity", "acc"):
        wanted = stock.aggregation()[name]([one[name] for one in theirs])
        assert mine[name] == pytest.approx(wanted, rel=1e-14)
    assert set(mine) == {"perplexity", "acc"}


def test_perplexities_of_pages_are_the_harnesss(tmp_path: Path) -> None:
    tests, shots = rows_of("wikitext2")
    chosen = ours("wikitext2", write(tmp_path, "wikitext2", tests, shots))
    stock = harness_task(FILES["wikitext2"], tests, shots, 0)
    rng = random.Random(0)
    losses = [rng.random() * 100 for _ in tests]
    raws = [{"loss": loss, "tokens": 9} for loss in losses]
    theirs = [stock.process_results(doc, [-loss]) for doc, loss in zip(tests, losses, strict=True)]
    mine = over_all(chosen, raws)
    assert list(mine) == ["word_perplexity", "byte_perplexity", "bits_per_byte"]
    for name, value in mine.items():
        wanted = stock.aggregation()[name]([one[name] for one in theirs])
        assert value == pytest.approx(wanted, rel=1e-14)
    for item, row in zip(chosen.items, tests, strict=True):
        assert isinstance(item, TextItem)
        assert item.document.measured == row["page"]


WRITINGS = (
    "#### 1,2340",
    "So 3 + 4 = 7.\n#### -71\n#### 9",
    "#### $18.2",
    "the answer is $18.2",
    "it is 18.2.",
    "no number at all",
    "",
    "####12340",
    "#### .",
    "#### ,\n5",
    "about -7 1",
    "-71",
    "--71--",
    "１２３",
    "#### 0.53 done",
    "0.53. And 0.57.",
    "$$$",
    "1,2340.",
    "$1,234.0",
    "#### 1,234.0",
    "A #### 1,2344 b #### 2",
)


def test_numbers_are_found_in_writing_as_the_harness_finds_them(tmp_path: Path) -> None:
    tests, shots = rows_of("gsm8k")
    tests.append({"question": "none", "answer": "It has no mark, A. "})
    tests.append({"question": "what is compared without a number", "answer": "[Invalid]"})
    chosen = ours("gsm8k", write(tmp_path, "gsm8k", tests, shots), 0)
    stock = harness_task(FILES["gsm8k"], tests, shots, 0)
    rng = random.Random(0)
    made = ["".join(rng.choices("#### 0123457.,$-aA\n", k=rng.randrange(12))) for _ in range(150)]
    golds = [row["answer"].split("\n")[-1] for row in tests]
    writings = (*WRITINGS, *golds, *made, *(gold.replace("#### ", "") for gold in golds))
    verdicts = {"exact_match_strict": set(), "exact_match_flexible": set()}
    assert {metric.name for metric in chosen.task.metrics} == set(verdicts)
    theirs = requests(stock)
    for writing in writings:
        for (instance,) in theirs:
            instance.resps = [writing]
        stock.apply_filters()
        for item, (instance,), row in zip(chosen.items, theirs, tests, strict=True):
            judged = chosen.task.judge(item, {"texts": [writing]})
            for name, rule in (("strict", "strict-match"), ("flexible", "flexible-extract")):
                found = instance.filtered_resps[rule]
                wanted = stock.process_results(row, [found])["exact_match"]
                assert judged[f"exact_match_{name}"] == (wanted, 1.0), (writing, row["answer"])
                verdicts[f"exact_match_{name}"].add(float(wanted))
    assert all(seen == {0.0, 1.0} for seen in verdicts.values())


# Programs: the requests only; `evaluate.load("code_eval")` would need the network.


@pytest.fixture
def no_code_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's files of both tasks, loaded without the metric that runs programs."""
    import evaluate

    class Metric:
        def compute(self, **_: Any) -> tuple[dict[str, float], dict[str, Any]]:
            return {"pass@1": 0.0}, {}

    monkeypatch.setattr(evaluate, "load", lambda *_, **__: Metric())
    for name in ("humaneval", "mbpp"):
        monkeypatch.delitem(sys.modules, f"lm_eval.tasks.{name}.utils", raising=False)


def humaneval_row(number: int, odd: str) -> Row:
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": f'def f{number}(x):\n    """ {odd} """\n',
        "canonical_solution": "    return x\n",
        "test": f"def check(candidate):\n    assert candidate({number}) == {number}\n",
        "entry_point": f"f{number}",
    }


def mbpp_row(number: int, odd: str) -> Row:
    return {
        "task_id": number,
        "text": f"Write {odd}.",
        "code": f"def f{number}(x):\r\n    return x",
        "test_setup_code": "",
        "test_list": [f"assert f{number}({n}) == {n} # {odd}" for n in range(3 + number % 2)],
        "split": "test",
    }


def program_rows(task: str) -> tuple[list[Row], list[Row]]:
    """Hand-written rows; MBPP's examples are a list in the harness's own file."""
    if task == "humaneval":
        return [humaneval_row(number, odd) for number, odd in enumerate(ODD)], []
    from lm_eval.tasks.mbpp.utils import list_fewshot_samples

    shown = [{**row, "split": "prompt", "test_setup_code": ""} for row in list_fewshot_samples()]
    others = [mbpp_row(number, odd) for number, odd in enumerate(ODD, start=5)]
    return [mbpp_row(number, odd) for number, odd in enumerate(ODD, start=11)], shown + others


@pytest.mark.usefixtures("no_code_eval")
@pytest.mark.parametrize("few_shot", [None, 1])
@pytest.mark.parametrize("task", PROGRAMS)
def test_the_harness_asks_for_the_same_programs(
    task: str, few_shot: int | None, tmp_path: Path
) -> None:
    tests, shots = program_rows(task)
    folder = write(tmp_path, task, tests, shots)
    how = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": render}
    for chat in (None, render):
        chosen = ours(task, folder, few_shot, chat=chat)
        stock = harness_task(PROGRAMS[task], tests, shots or tests, few_shot)
        assert chosen.few_shot == stock.config.num_fewshot
        check_requests(chosen.items, requests(stock, **(how if chat else {})))


@pytest.mark.usefixtures("no_code_eval")
@pytest.mark.parametrize("task", PROGRAMS)
def test_the_harness_asks_for_the_published_programs(task: str) -> None:
    if not (SHARED / "bench").is_dir():
        pytest.skip("the published rows are not beside the repository (../shared/data)")
    rows = [row for row in read_shared(task) if row.get("split", "test") == "test"]
    chosen = ours(task, SHARED)
    assert len(chosen.items) == {"humaneval": 164, "mbpp": 500}[task]
    stock = harness_task(PROGRAMS[task], rows[:40], rows[:1], None)
    check_requests(chosen.items[:40], requests(stock))


# The published rows, where they are beside the repository.


def read_shared(name: str, folder: str = "bench") -> list[Row]:
    with gzip.open(SHARED / folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def hub_fields(task: str, row: Row) -> Row:
    """A shared row with the hub's fields, where the two differ."""
    if task in ("arc_easy", "arc_challenge", "openbookqa"):
        labels = "ABCDE"[: len(row["choices"])]
        return {
            "id": row["id"],
            "question_stem" if task == "openbookqa" else "question": row["question"],
            "choices": {"text": row["choices"], "label": list(labels)},
            "answerKey": labels[row["answer"]],
        }
    if task == "boolq":
        return {**row, "label": int(row["answer"]), "answer": None}
    return row


PUBLISHED = {
    "wikitext2": ("wikitext2_raw_test", None),
    "gsm8k": ("gsm8k_test", "gsm8k_train"),
    "mmlu": ("mmlu_test", "mmlu_dev"),
    "arc_easy": ("arc_easy_test", "arc_easy_train"),
    "arc_challenge": ("arc_challenge_validation", "arc_challenge_train"),
    "hellaswag": ("hellaswag_validation", None),
    "piqa": ("piqa_validation", None),
    "winogrande": ("winogrande_xl_validation", None),
    "openbookqa": ("openbookqa_test", "openbookqa_train"),
    "boolq": ("boolq_validation", None),
    "lambada": ("lambada_openai_test", None),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_harness_asks_the_same_of_the_published_rows(task: str) -> None:
    if not (SHARED / "bench").is_dir():
        pytest.skip("the published rows are not beside the repository (../shared/data)")
    test_name, shot_name = PUBLISHED[task]
    limit, few_shot = 25, 3 if shot_name else 0
    rows = read_shared(test_name, "text" if task == "wikitext2" else "bench")
    shots = read_shared(shot_name) if shot_name else rows[-5:]
    chosen = ours(task, SHARED, few_shot, limit=limit)
    items = chosen.items
    if task == "mmlu":
        rows, shots = ([row for row in some if row["subject"] == SUBJECT] for some in (rows, shots))
        items = tuple(item for item in items if item.group == SUBJECT)
    tests = [hub_fields(task, row) for row in rows[:limit]]
    shots = [hub_fields(task, row) for row in shots]
    check_requests(items, requests(harness_task(FILES[task], tests, shots, few_shot)))


def test_every_subject_of_mmlu_has_the_harnesss_description() -> None:
    from lm_eval import tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    from lamina.evaluate.tasks.choices import read_mmlu

    files = sorted((Path(tasks.__file__).parent / "mmlu" / "default").glob("mmlu_*.yaml"))
    assert len(files) == 57, files
    row = {"question": "?", "choices": list("abcd"), "answer": 0}
    for file in files:
        config = load_yaml(file)
        asked = read_mmlu({**row, "subject": config["dataset_name"]})
        assert asked.system == config["description"]
