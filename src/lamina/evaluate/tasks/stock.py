"""The stock tasks, each as the harness's own file defines it (`lm_eval/tasks/<name>/*.yaml`)."""

from lamina.evaluate.nouns import Metric, Split, Task
from lamina.evaluate.tasks import choices, programs, texts, writing
from lamina.evaluate.tasks.definition import Definition

ACC = Metric("acc", higher_is_better=True)
ACC_NORM = Metric("acc_norm", higher_is_better=True)
_MBPP = "google-research-datasets/mbpp"
_OWN_EXAMPLES = "six examples are part of its prompt"


def _files(stem: str, hub: str, configuration: str | None, split: str, *others: str) -> Split:
    return Split((f"{stem}_{split}", *others), (hub, configuration, split))


def _arc(name: str, configuration: str) -> Definition:
    """Without a test file the validation rows are asked, and said so."""
    hub = "allenai/ai2_arc"
    return Definition(
        Task(name, 1, "choices", (ACC, ACC_NORM), choices.judge_acc_norm, chance=0.25),
        test=_files(name, hub, configuration, "test", f"{name}_validation"),
        read=choices.read_arc,
        shots=_files(name, hub, configuration, "train"),
    )


STOCK = (
    Definition(
        Task("wikitext2", 1, "text", texts.TEXT_METRICS, texts.judge_text),
        test=Split(
            ("wikitext2_raw_test", "wikitext2_test", "wikitext_test"),
            ("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", "test"),
        ),
        read=texts.read_wikitext,
        no_examples="a text is read from its beginning",
    ),
    Definition(
        Task(
            "gsm8k",
            1,
            "write",
            (
                Metric("exact_match_strict", higher_is_better=True),
                Metric("exact_match_flexible", higher_is_better=True),
            ),
            writing.judge_gsm8k,
        ),
        test=_files("gsm8k", "openai/gsm8k", "main", "test"),
        read=writing.read_gsm8k,
        shots=_files("gsm8k", "openai/gsm8k", "main", "train"),
        few_shot=5,
    ),
    Definition(
        Task("humaneval", 1, "code", programs.PROGRAM_METRICS, programs.judge_programs),
        test=Split(("humaneval", "humaneval_test"), ("openai/openai_humaneval", None, "test")),
        read=programs.read_humaneval,
        no_examples="its prompt is the beginning of the program",
    ),
    Definition(
        Task("mbpp", 1, "code", programs.PROGRAM_METRICS, programs.judge_programs),
        test=Split(("mbpp_test", "mbpp"), (_MBPP, "full", "test")),
        read=programs.read_mbpp,
        shots=Split(("mbpp_prompt", "mbpp"), (_MBPP, "full", "prompt")),
        draw="first",
        few_shot=3,
        delimiter="",
        kept=programs.asked_of_mbpp,
        kept_shots=programs.shown_of_mbpp,
    ),
    Definition(
        Task("mmlu", 1, "choices", (ACC,), choices.judge_acc, chance=0.25),
        test=_files("mmlu", "cais/mmlu", "all", "test"),
        read=choices.read_mmlu,
        shots=_files("mmlu", "cais/mmlu", "all", "dev"),
        draw="first",
        by_group=True,
    ),
    _arc("arc_easy", "ARC-Easy"),
    _arc("arc_challenge", "ARC-Challenge"),
    Definition(
        Task("hellaswag", 1, "choices", (ACC, ACC_NORM), choices.judge_acc_norm, chance=0.25),
        test=_files("hellaswag", "Rowan/hellaswag", None, "validation"),
        read=choices.read_hellaswag,
        shots=_files("hellaswag", "Rowan/hellaswag", None, "train"),
        draw="spare",
    ),
    Definition(
        Task("piqa", 1, "choices", (ACC, ACC_NORM), choices.judge_acc_norm, chance=0.5),
        test=_files("piqa", "baber/piqa", None, "validation"),
        read=choices.read_piqa,
        shots=_files("piqa", "baber/piqa", None, "train"),
        draw="spare",
    ),
    Definition(
        Task("winogrande", 1, "choices", (ACC,), choices.judge_acc, chance=0.5),
        test=_files(
            "winogrande_xl",
            "allenai/winogrande",
            "winogrande_xl",
            "validation",
            "winogrande_validation",
        ),
        read=choices.read_winogrande,
        shots=_files(
            "winogrande_xl", "allenai/winogrande", "winogrande_xl", "train", "winogrande_train"
        ),
        draw="spare",
    ),
    Definition(
        Task("openbookqa", 1, "choices", (ACC, ACC_NORM), choices.judge_acc_norm, chance=0.25),
        test=_files("openbookqa", "allenai/openbookqa", "main", "test"),
        read=choices.read_openbookqa,
        shots=_files("openbookqa", "allenai/openbookqa", "main", "train"),
    ),
    Definition(
        Task("boolq", 1, "choices", (ACC,), choices.judge_acc, chance=0.5),
        test=_files("boolq", "aps/super_glue", "boolq", "validation"),
        read=choices.read_boolq,
        shots=_files("boolq", "aps/super_glue", "boolq", "train"),
        draw="spare",
    ),
    Definition(
        Task(
            "truthfulqa",
            1,
            "choices",
            (Metric("mc1", higher_is_better=True), Metric("mc2", higher_is_better=True)),
            choices.judge_truthfulqa,
        ),
        test=Split(
            ("truthfulqa_mc", "truthfulqa_validation"),
            ("truthfulqa/truthful_qa", "multiple_choice", "validation"),
        ),
        read=choices.read_truthfulqa,
        no_examples=_OWN_EXAMPLES,
    ),
    Definition(
        Task(
            "lambada",
            1,
            "choices",
            (ACC, Metric("perplexity", higher_is_better=False, scale="exp")),
            choices.judge_lambada,
        ),
        test=_files(
            "lambada_openai", "EleutherAI/lambada_openai", "default", "test", "lambada_test"
        ),
        read=choices.read_lambada,
        delimiter="",
    ),
)
