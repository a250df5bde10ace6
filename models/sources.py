"""The table of real texts behind the demo models: file, origin, licence, what it is used for.

Only sources that may be passed on are in it. Left out although they lie in the same folder:
non-commercial sets, the `cc`, `arxiv` and `book` parts of the RedPajama sample (unclear licences),
LegalBench rows marked NC, and every test or validation set, with three exceptions that are named in
the table: TAT-QA dev, an old LegalBench test file, and the MBPP validation split (held out, never
trained on).
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file comes from and under what terms."""

    path: str
    origin: str
    licence: str
    used_for: str


SOURCES = {
    "redpajama": Source(
        "text/redpajama_sample.jsonl.gz",
        "RedPajama-1T sample in princeton-nlp/LLM-Shearing; parts c4, stackexchange, github, wiki",
        "C4 ODC-By, Stack Exchange and Wikipedia CC BY-SA, GitHub permissive",
        "base, code",
    ),
    "c4": Source("text/c4_demo.jsonl.gz", "C4 sample in hiyouga/LLaMA-Factory", "ODC-By", "base"),
    "wikipedia": Source(
        "text/wikipedia_demo.jsonl.gz", "Wikipedia in hiyouga/LLaMA-Factory", "CC BY-SA", "base"
    ),
    "wikitext": Source(
        "text/wikitext2_raw_train_part.jsonl.gz",
        "WikiText-2 raw train, part in NagusameCS/HyperTensor",
        "CC BY-SA 3.0",
        "base",
    ),
    "hellaswag": Source(
        "train_mc/hellaswag_train_5000.jsonl.gz", "rowanz/hellaswag, train", "MIT", "base"
    ),
    "boolq": Source(
        "train_mc/boolq_train_3000.jsonl.gz", "BoolQ, train (passages)", "CC BY-SA 3.0", "base"
    ),
    "medquad": Source(
        "domains/medicine_medquad_8000.jsonl.gz", "abachaa/MedQuAD", "CC BY 4.0", "base, instruct"
    ),
    "pubmedqa": Source(
        "domains/medicine_pubmedqa_labeled.jsonl.gz",
        "pubmedqa/pubmedqa, rows outside the test split",
        "MIT",
        "base, instruct",
    ),
    "tatqa": Source(
        "domains/finance_tatqa_dev.jsonl.gz", "NExTplusplus/TAT-QA, dev", "MIT", "base, instruct"
    ),
    "legalbench": Source(
        "domains/law_legalbench_train.jsonl.gz",
        "HazyResearch/legalbench, few-shot train rows without NC",
        "CC BY 4.0, CC BY-SA 4.0, MIT, per row",
        "base, instruct",
    ),
    "ssla": Source(
        "domains/law_ssla_individual_defendants.jsonl.gz",
        "HazyResearch/legalbench, test_old.tsv of ssla_individual_defendants",
        "CC BY 4.0",
        "base, instruct",
    ),
    "arc_easy": Source(
        "bench/arc_easy_train.jsonl.gz", "AI2 ARC Easy, train", "CC BY-SA 4.0", "base, instruct"
    ),
    "arc_challenge": Source(
        "bench/arc_challenge_train.jsonl.gz",
        "AI2 ARC Challenge, train",
        "CC BY-SA 4.0",
        "base, instruct",
    ),
    "openbookqa": Source(
        "bench/openbookqa_train.jsonl.gz", "OpenBookQA, train", "Apache-2.0", "base, instruct"
    ),
    "csqa": Source("train_mc/csqa_train_5000.jsonl.gz", "CommonsenseQA, train", "MIT", "instruct"),
    "piqa": Source("train_mc/piqa_train_5000.jsonl.gz", "PIQA, train", "AFL 3.0", "instruct"),
    "socialiqa": Source(
        "train_mc/socialiqa_train_5000.jsonl.gz", "Social IQa, train", "CC BY 4.0", "instruct"
    ),
    "dolly": Source(
        "instruct/dolly_hhrlhf_1000.jsonl.gz",
        "databricks-dolly-15k and HH-RLHF, sample in mosaicml/llm-foundry",
        "CC BY-SA 3.0",
        "instruct",
    ),
    "self_instruct": Source(
        "instruct/self_instruct_seed.jsonl.gz", "yizhongw/self-instruct", "Apache-2.0", "instruct"
    ),
    "glaive": Source(
        "instruct/glaive_toolcall_demo.jsonl.gz",
        "Glaive function calling, sample in hiyouga/LLaMA-Factory",
        "Apache-2.0",
        "instruct",
    ),
    "identity": Source(
        "instruct/identity_template.jsonl.gz", "hiyouga/LLaMA-Factory", "Apache-2.0", "instruct"
    ),
    "gsm8k": Source("bench/gsm8k_train.jsonl.gz", "openai/grade-school-math, train", "MIT", "math"),
    "mbpp": Source(
        "bench/mbpp.jsonl.gz",
        "google-research (mbpp): train split to train on, validation split to score",
        "CC BY 4.0",
        "code",
    ),
    "tofu": Source("unlearning/tofu_full.jsonl.gz", "locuslab/tofu", "MIT", "unwanted"),
}

# Rows per thousand that are kept out of training, per source of `Row.source`.
PERMILLE = {
    "c4": 15,
    "stackexchange": 10,
    "wikitext": 10,
    "github": 60,
    "medquad": 12,
    "pubmedqa": 30,
    "tatqa": 80,
    "legalbench": 80,
    "ssla": 30,
    "arc_easy": 60,
    "arc_challenge": 60,
    "openbookqa": 60,
    "csqa": 10,
    "piqa": 10,
    "socialiqa": 10,
    "dolly": 50,
    "self_instruct": 80,
    "glaive": 60,
    "gsm8k": 20,
}


def missing(data: Path) -> list[str]:
    """The files of the table that are not in the data folder."""
    return [source.path for source in SOURCES.values() if not (data / source.path).is_file()]
