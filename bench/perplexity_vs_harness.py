"""Perplexity on WikiText-2: lamina against lm-evaluation-harness, same model, same file, one run.

    python bench/perplexity_vs_harness.py MODEL --harness-python PYTHON --data DIR [--limit N]

PYTHON is the interpreter of an environment with lm-eval 0.4.13; DIR holds
wikitext2_raw_test.jsonl.gz (rows with `page`), there or in a folder `text`. Both run in float32 on
the CPU, each in a process of its own. Prints both numbers, their relative difference and both
times; exit code 1 above 1e-6. With `--rows FILE` the log-likelihood of every page is kept, too.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 1e-6
NAMES = ("word_perplexity", "byte_perplexity")
FILE = "wikitext2_raw_test.jsonl.gz"

# Runs in the harness's environment. The stock task with its own functions, read from a local file.
HARNESS = """
import json, sys, time
model, data, out, limit, batch_size = sys.argv[1:]
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer
task = {
    "task": "wikitext2_local", "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": data}}, "test_split": "test",
    "output_type": "loglikelihood_rolling", "doc_to_text": "",
    "doc_to_target": wikitext_detokenizer, "process_results": process_results,
    "metric_list": [{"metric": name, "aggregation": aggregation, "higher_is_better": False}
                    for name, aggregation in (("word_perplexity", "weighted_perplexity"),
                                              ("byte_perplexity", "weighted_perplexity"),
                                              ("bits_per_byte", "bits_per_byte"))],
}
lm = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=int(batch_size))
begin, cpu = time.perf_counter(), time.process_time()
found = lm_eval.simple_evaluate(
    model=lm, tasks=[task], task_manager=TaskManager(include_defaults=False),
    limit=int(limit) or None, bootstrap_iters=0, log_samples=True)
seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
results = found["results"]["wikitext2_local"]
samples = sorted(found["samples"]["wikitext2_local"], key=lambda sample: sample["doc_id"])
json.dump({
    "word_perplexity": results["word_perplexity,none"],
    "byte_perplexity": results["byte_perplexity,none"],
    "rows": [sample["word_perplexity"][0] for sample in samples],
    "max_length": lm.max_length, "version": lm_eval.__version__,
    "seconds": seconds, "cpu_seconds": cpu,
}, open(out, "w"))
"""

OURS = """
import json, sys, time
model, data, out = sys.argv[1:]
from lamina.evaluate.models import find_model, load_model
from lamina.evaluate.perplexity import score
from lamina.evaluate.text import read_documents
loaded = load_model(find_model(model))
begin, cpu = time.perf_counter(), time.process_time()
loss = score(loaded, read_documents(data))
seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
json.dump({
    "word_perplexity": loss.word_perplexity, "byte_perplexity": loss.byte_perplexity,
    "rows": [-value for value in loss.row_sums], "max_length": loaded.max_length,
    "tokens": loss.tokens, "loss": loss.loss, "seconds": seconds, "cpu_seconds": cpu,
}, open(out, "w"))
"""


def main() -> int:
    arguments = _arguments()
    data = _data_file(arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages.jsonl"
        count = _copy(data, pages, arguments.limit)
        model = str(Path(arguments.model).resolve())
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": folder,
        }
        ours = _run("lamina", sys.executable, OURS, [model, str(pages)], Path(folder), environment)
        theirs = _run(
            "harness",
            arguments.harness_python,
            HARNESS,
            [model, str(pages)],
            Path(folder),
            environment,
            ["0", str(arguments.batch_size)],
        )
    if arguments.rows:
        kept = {"ours": ours, "harness": theirs}
        Path(arguments.rows).write_text(json.dumps(kept, indent=1) + "\n")
    return _report(ours, theirs, count)


def _report(ours: dict, theirs: dict, count: int) -> int:
    print(
        f"{count} pages, {ours['tokens']} tokens, windows of {ours['max_length']}; "
        f"lm-evaluation-harness {theirs['version']}, windows of {theirs['max_length']}"
    )
    print(f"{'':16}{'lamina':>24}{'harness':>24}{'relative difference':>22}")
    worst = 0.0
    for name in NAMES:
        difference = abs(ours[name] / theirs[name] - 1)
        worst = max(worst, difference)
        print(f"{name:16}{ours[name]:24.12g}{theirs[name]:24.12g}{difference:22.2e}")
    rows = max(abs(a / b - 1) for a, b in zip(ours["rows"], theirs["rows"], strict=True))
    print(f"largest relative difference of one page's log-likelihood: {rows:.2e}")
    for who, result in (("lamina", ours), ("harness", theirs)):
        rate = ours["tokens"] / result["cpu_seconds"]
        print(
            f"{who:8}{result['seconds']:8.1f} s wall {result['cpu_seconds']:8.1f} s CPU "
            f"{rate:8.0f} tokens per CPU second (model loaded already)"
        )
    print("equal" if worst <= LIMIT else f"NOT EQUAL: {worst:.2e} is above {LIMIT:.0e}")
    return int(worst > LIMIT)


def _run(
    who: str,
    python: str,
    program: str,
    given: list[str],
    folder: Path,
    environment: dict[str, str],
    more: list[str] | None = None,
) -> dict:
    out = folder / "result.json"
    begin = time.perf_counter()
    done = subprocess.run(
        [python, "-c", program, *given, str(out), *(more or [])],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"error: {python} failed\n{done.stderr[-3000:]}")
    print(f"{who}: {time.perf_counter() - begin:.0f} s in all")
    return json.loads(out.read_text())


def _data_file(folder: str) -> Path:
    for path in (Path(folder) / FILE, Path(folder) / "text" / FILE, Path(folder)):
        if path.is_file():
            return path
    sys.exit(f"error: there is no {FILE} in {folder} or its folder text")


def _copy(data: Path, pages: Path, limit: int) -> int:
    raw = gzip.decompress(data.read_bytes()) if data.suffix == ".gz" else data.read_bytes()
    lines = [line for line in raw.split(b"\n") if line.strip()]
    lines = lines[:limit] if limit else lines
    pages.write_bytes(b"\n".join(lines) + b"\n")
    return len(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model's folder")
    parser.add_argument("--harness-python", required=True, help="python with lm-eval 0.4.13")
    parser.add_argument("--data", required=True, help=f"folder with {FILE}, or a .jsonl of pages")
    parser.add_argument("--limit", type=int, default=0, help="only the first N pages")
    parser.add_argument("--batch-size", type=int, default=8, help="the harness's batch size")
    parser.add_argument("--rows", help="keep both results here, page by page, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
