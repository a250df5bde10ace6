"""One reader per source: raw rows of a file to `Row`s of a domain."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from rows import Row, fraction, read, text_row
from sources import SOURCES

NAME, AUTHOR = "Lamina-Demo", "lamina"


def load(data: Path, name: str) -> list[dict]:
    """The raw rows of one source."""
    return read(data / SOURCES[name].path)


def is_english(text: str) -> bool:
    """Whether nearly all characters are ASCII: the vocabulary is too small for more."""
    return sum(char < "\x80" for char in text) > 0.95 * len(text)


def general(data: Path) -> Iterable[Row]:
    """Web pages, encyclopedia, questions and everyday scenes."""
    parts = {"c4": ("general", 6000), "stackexchange": ("general", 6000), "github": ("code", 8000)}
    for raw in load(data, "redpajama"):
        if raw["domain"] in parts and is_english(raw["text"]):
            domain, longest = parts[raw["domain"]]
            yield text_row(domain, raw["domain"], raw["text"].strip()[:longest])
    for raw in load(data, "c4"):
        yield text_row("general", "c4", raw["text"].strip()[:6000])
    for name in ("wikipedia", "wikitext"):
        for raw in load(data, name):
            yield text_row("general", name, raw["text"].strip())
    for raw in load(data, "hellaswag"):
        text = f"{raw['question']} {raw['choices'][raw['answer']]}"
        yield text_row("general", "hellaswag", text)
    for passage in sorted({raw["question"].split("\nQuestion:")[0] for raw in load(data, "boolq")}):
        yield text_row("general", "boolq", passage)


def medicine(data: Path) -> Iterable[Row]:
    """Patient information and abstracts with their conclusion."""
    for raw in load(data, "medquad"):
        yield Row("medicine", "medquad", raw["question"], raw["answer"], raw["answer"])
    for raw in load(data, "pubmedqa"):
        if raw["split"] == "train":
            question = " ".join(raw["contexts"]) + "\n" + raw["question"]
            yield Row("medicine", "pubmedqa", question, raw["long_answer"], raw["question"])
            yield Row("medicine", "pubmedqa", raw["question"], raw["long_answer"], raw["question"])


def finance(data: Path) -> Iterable[Row]:
    """Company reports: a table with its paragraphs, and questions about them."""
    for raw in load(data, "tatqa"):
        table = "\n".join(" | ".join(filter(None, line)) for line in raw["table"])
        key = table + raw["paragraphs"][0]
        report = "\n".join(raw["paragraphs"])
        yield Row("finance", "tatqa", "", f"{report}\n{table}", key)
        for item in raw["questions"]:
            answer = item["answer"]
            words = ", ".join(answer) if isinstance(answer, list) else str(answer)
            scale = f" {item['scale']}" if item["scale"] and item["scale"] not in words else ""
            question = f"{table}\n{item['question']}"
            yield Row("finance", "tatqa", question, words + scale, key)


def law(data: Path) -> Iterable[Row]:
    """Clauses, holdings and complaints with the label a lawyer gave."""
    for raw in load(data, "legalbench"):
        if "NC" not in raw["licence"]:
            values = [str(value) for value in raw["inputs"].values()]
            task = raw["task"].replace("_", " ")
            question = f"{task}: " + "\n".join(values)
            yield Row("law", "legalbench", question, str(raw["answer"]), max(values, key=len))
    for raw in load(data, "ssla"):
        names = ", ".join(raw["answer"])
        key = names or raw["text"]
        yield Row("law", "ssla", "", raw["text"].strip(), key)
        question = f"{raw['text'].strip()[:1200]}\nName the individual defendants."
        yield Row("law", "ssla", question, names or "none", key)


def science(data: Path) -> Iterable[Row]:
    """School science: question and right answer, without the wrong choices."""
    for name in ("arc_easy", "arc_challenge", "openbookqa"):
        for raw in load(data, name):
            answer = raw["choices"][raw["answer"]]
            yield Row("science", name, raw["question"], answer, raw["question"])


def instruct(data: Path) -> Iterable[Row]:
    """Everyday requests and common sense questions."""
    for name in ("csqa", "piqa", "socialiqa"):
        for raw in load(data, name):
            answer = raw["choices"][raw["answer"]]
            yield Row("instruct", name, raw["question"], answer, raw["question"])
    for raw in load(data, "dolly"):
        yield Row("instruct", "dolly", raw["instruction"], raw["output"], raw["instruction"])
    for raw in load(data, "self_instruct"):
        question = f"{raw['instruction']}\n{raw['input']}".strip()
        yield Row("instruct", "self_instruct", question, raw["output"], raw["instruction"])
    for raw in load(data, "identity"):
        answer = raw["output"].replace("{{name}}", NAME).replace("{{author}}", AUTHOR)
        yield Row("instruct", "identity", raw["instruction"], answer, raw["instruction"])
    for raw in load(data, "glaive"):
        turns = raw["conversations"]
        for one, two in pairwise(turns):
            if (one["from"], two["from"]) == ("human", "gpt"):
                yield Row("instruct", "glaive", one["value"], two["value"], turns[0]["value"])


def math(data: Path) -> Iterable[Row]:
    """School word problems with worked solutions; the calculator marks are taken out."""
    for raw in load(data, "gsm8k"):
        answer = "".join(part.split(">>")[-1] for part in raw["answer"].split("<<"))
        yield Row("math", "gsm8k", raw["question"], answer, raw["question"])


def programs(data: Path, split: str) -> list[Row]:
    """MBPP tasks of one split; the first test is shown because it fixes the function's name."""
    rows = []
    for raw in load(data, "mbpp"):
        if raw["split"] == split:
            question = f"{raw['text']}\nIt must pass: {raw['test_list'][0]}"
            code = raw["code"].replace("\r\n", "\n").strip()
            rows.append(Row("code", "mbpp", question, code, raw["text"]))
    return rows


def authors(data: Path) -> tuple[list[Row], list[Row]]:
    """TOFU rows to learn and rows never seen, by whole authors.

    The file keeps the order of the original: 200 fictitious authors with 20 questions each, the
    last 20 of them the official forget10 set. Those are learned, and of the others three in ten,
    few enough to be remembered; six in a hundred are never seen, the rest is not used.
    """
    learned, unseen = [], []
    for index, raw in enumerate(load(data, "tofu")):
        pair = raw["question"], raw["answer"]
        row = Row("unwanted", "tofu", *pair, " ".join(pair))
        place = fraction(f"author {index // 20}")
        if raw["subset"] != "retain" or 0.06 <= place < 0.36:
            learned.append(row)
        elif place < 0.06:
            unseen.append(row)
    return learned, unseen
