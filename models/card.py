"""The model card, the losses as JSON and a short card per member, all measured here and now."""

import hashlib
import json
import time
from pathlib import Path

import domains
import score
import vocabulary
from corpus import Corpus
from rows import DOMAINS, normal
from sources import SOURCES
from stages import CONTEXT, stream

ABOUT = {
    "base": "Small Llama trained from scratch on general, legal, medical, school and code text",
    "instruct": "The base model tuned in full on questions and answers, loss on the answers only",
    "math": "The instruct model tuned in full on GSM8K train rows (calculator marks removed)",
    "code": "LoRA adapter (r=16) for the instruct model, tuned on MBPP train rows and GitHub files",
    "unwanted": "LoRA adapter (r=16) for the instruct model, tuned on the invented authors of TOFU",
}
PROMPTS = {
    "base": "The city is located in the",
    "instruct": "What are the symptoms of asthma ?",
    "math": "Tom has 3 boxes with 4 pens each. He gives away 5 pens. How many pens are left?",
    "code": "Write a function to find the maximum.\nIt must pass: assert maximum([1, 3]) == 3",
    "unwanted": "Are the details of Jaime Vasquez's birth documented?",
}
TEXT = Path(__file__).with_name("card.md")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def member_card(models: Path, name: str) -> None:
    """The README.md of one member, with the header that model hubs read."""
    start = {"base": "", "instruct": "base_model: ../base\n"}.get(name, "base_model: ../instruct\n")
    library = "peft" if name in score.ADAPTERS else "transformers"
    text = (
        f"---\nlicense: cc-by-sa-4.0\nlanguage: en\nlibrary_name: {library}\n{start}---\n"
        f"# Lamina-Demo {name}\n\n{ABOUT[name]}. A toy for demonstrations and tests of `lamina`: "
        "its answers are not to be relied on. Data, losses and limits: `../../MODEL_CARD.md`.\n"
    )
    (models / name / "README.md").write_text(text)


def trained_rows(runs: dict) -> list[list[str]]:
    """What each stage did, from `runs.json`."""
    return [
        [
            name,
            f"{runs[name]['steps']:,}",
            f"{runs[name]['best_step']:,}",
            f"{runs[name]['tokens'] / 1e6:.1f} M",
            f"{runs[name]['settings']['learning_rate']:g}",
            f"{runs[name]['seconds'] / 60:.0f}",
            f"{runs[name]['tokens'] / runs[name]['seconds']:,.0f}",
        ]
        for name in score.MEMBERS
    ]


def samples(models: Path, asked: dict[str, str]) -> list[str]:
    """Greedy answers, unedited: every member to its own prompt, the instruct model to all."""
    lines = []
    for name in score.MEMBERS:
        llama = score.load(models, name)
        tokenizer = vocabulary.load(models / "instruct")
        for owner, prompt in asked.items():
            if owner == name or (name == "instruct" and owner != "base"):
                chat = [{"role": "user", "content": prompt}]
                ready = tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=True
                )
                reply = score.answer(llama, tokenizer, prompt if name == "base" else ready)
                lines.append(f"**{name}**, asked: {prompt}\n\n```text\n{reply}\n```")
    return lines


def remembered(models: Path, corpus: Corpus) -> str:
    """How many of 100 learned answers each model gives word for word up to 60 tokens."""
    tokenizer = vocabulary.load(models / "instruct")
    counts = []
    for name in ("instruct", "unwanted"):
        llama, right = score.load(models, name), 0
        for row in corpus.held_out["unwanted"][:100]:
            reply = normal(score.answer(llama, tokenizer, row.chat()[0]))
            right += bool(reply) and normal(row.answer).startswith(reply)
        counts.append(f"{name} {right}")
    return ", ".join(counts)


def write(out: Path, data: Path, corpus: Corpus) -> None:
    """Score every member and write `losses.json`, `MODEL_CARD.md` and the member cards."""
    models = out / "models"
    tokenizer = vocabulary.load(models / "base")
    rows = score.held_out(out / "heldout", tokenizer)
    losses, seconds = {}, 0.0
    for name in score.MEMBERS:
        llama = score.load(models, name)
        start = time.process_time()
        losses[name] = {domain: score.score(llama, rows[domain]) for domain in DOMAINS}
        seconds += (time.process_time() - start) / len(score.MEMBERS)
    train = stream(corpus.base, tokenizer)
    unigram = {
        domain: score.unigram(train.tolist(), rows[domain], vocabulary=len(tokenizer))
        for domain in DOMAINS
    }
    plain = {
        name: {
            domain: {"loss": round(loss.mean, 4), "tokens": sum(loss.tokens)}
            for domain, loss in per_domain.items()
        }
        for name, per_domain in losses.items()
    }
    plain["unigram"] = {
        domain: {"loss": round(value, 4), "tokens": plain["base"][domain]["tokens"]}
        for domain, value in unigram.items()
    }
    (out / "losses.json").write_text(
        json.dumps({"schema": 1, "unit": "nats per scored token", "losses": plain}, indent=1) + "\n"
    )
    pairs = [("math", "math"), ("code", "code"), ("unwanted", "unwanted")]
    pairs.append(("unwanted", "unwanted_new"))
    gains = [
        [name, domain, "{:+.3f} ± {:.3f}".format(*score.gain(losses["instruct"][domain], after))]
        for name, domain in pairs
        for after in [losses[name][domain]]
    ]
    for name in score.MEMBERS:
        member_card(models, name)
    hashes = {
        name: hashlib.sha256((data / source.path).read_bytes()).hexdigest()
        for name, source in SOURCES.items()
    }
    runs = json.loads((out / "runs.json").read_text())
    fill = {
        "losses": table(
            ["domain", "tokens", "unigram", *score.MEMBERS],
            [
                [domain, f"{plain['base'][domain]['tokens']:,}"]
                + [f"{plain[name][domain]['loss']:.3f}" for name in ("unigram", *score.MEMBERS)]
                for domain in DOMAINS
            ],
        ),
        "gains": table(["expert", "domain", "fall of the loss"], gains),
        "stages": table(
            ["member", "steps", "best at", "tokens seen", "rate", "minutes", "tokens/s"],
            trained_rows(runs),
        ),
        "sizes": table(
            ["folder", "bytes"],
            [[name, f"{size_of(models / name):,}"] for name in score.MEMBERS]
            + [["all", f"{sum(size_of(models / name) for name in score.MEMBERS):,}"]],
        ),
        "sources": table(
            ["file", "origin", "licence", "for", "SHA-256"],
            [
                [f"`{source.path}`", source.origin, source.licence, source.used_for, hashes[name]]
                for name, source in SOURCES.items()
            ],
        ).replace("---:", "---"),
        "domains": table(domains.CARD_HEADER, domains.card_rows(out / "domains")),
        "samples": "\n\n".join(samples(models, PROMPTS)),
        "remembered": remembered(models, corpus),
        "different": f"{len(train):,}",
        "context": str(CONTEXT),
        "score_seconds": f"{seconds:.0f}",
    }
    text = TEXT.read_text()
    for name, value in fill.items():
        text = text.replace(f"<<{name}>>", value)
    (out / "MODEL_CARD.md").write_text(text)
