"""What the verbs print: short tables that a person understands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lamina.jobs.files import summary


def _console() -> Console:
    """The terminal; off a terminal wide enough for every table."""
    width = None if Console().is_terminal else 120
    return Console(highlight=False, markup=False, width=width)


def size(num_bytes: float) -> str:
    """Bytes as a person says them."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            return f"{num_bytes:,.0f} {unit}" if unit == "bytes" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError


def _facts(title: str, facts: Mapping[str, str]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for key, value in facts.items():
        table.add_row(Text(key, style="dim"), Text(value))
    return table


def print_warnings(console: Console, warnings: list[str]) -> None:
    for warning in warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))


def print_check(told: Mapping[str, Any]) -> None:
    """`lamina check` and `--dry-run`."""
    console = _console()
    if "method" in told:
        facts = {
            "method": told["method"],
            "model": f"{told['architecture']}, {told['blocks']} blocks, {told['tensors']} tensors, "
            f"{told['parameters'] / 1e6:,.1f} M parameters",
        }
        for name, entry in told["inputs"].items():
            facts[name] = f"{entry['path']} ({entry['kind']}, {size(entry['bytes'])}"
            facts[name] += f", {entry['license']})" if entry["license"] else ")"
        facts |= {f"scores of {name}": told for name, told in told["scores"].items()}
        facts |= {
            "to read": size(told["bytes_to_read"]),
            "to write": size(told["bytes_to_write"]),
            "free on the disk": size(told["free_bytes"]),
            "peak memory": f"about {size(told['peak_memory_bytes'])}",
        }
        if told["outputs"] != [""]:
            facts["outputs"] = ", ".join(told["outputs"])
        console.print(_facts("This merge can run.", facts))
    else:
        skip = ("file", "warnings", "parameters_by_role", "bytes")
        facts = {
            key.replace("_", " "): f"{value:,}" if isinstance(value, int) else str(value)
            for key, value in told.items()
            if key not in skip and value is not None
        }
        if told["bytes"]:
            facts["size"] = size(told["bytes"])
        console.print(_facts(told["file"], facts))
    print_warnings(console, told["warnings"])


def print_merged(out: Path, manifest: Mapping[str, Any]) -> None:
    """What a merge did, in a few lines."""
    console = _console()
    every = manifest["results"]
    for name, results in every.items() if manifest["kind"] == "sweep" else [("", every)]:
        console.print(f"{out / name}: {summary(manifest['recipe']['merge_method'], results)}")
    print_warnings(console, manifest["warnings"])
    page = out / "report.html"
    if page.is_file():
        console.print(f"page: {page}")


def print_tuned(out: Path, manifest: Mapping[str, Any]) -> None:
    """Held-out losses before and after a tune run, by domain."""
    console, results = _console(), manifest["results"]
    table = Table(box=None, padding=(0, 2))
    table.add_column("domain")
    for column in ("loss before", "after", "trained tokens", "last weight"):
        table.add_column(column, justify="right")
    for name, loss in results["start"].items():
        table.add_row(
            Text(name),
            f"{loss:.4f}",
            f"{results['end'][name]:.4f}",
            f"{results['trained_tokens'][name]:,}",
            f"{results['weights'][name]:.3f}",
        )
    console.print(table)
    if results["stopped"]:
        console.print(f"ended early: {results['stopped']}")
    print_warnings(console, manifest["warnings"])
    console.print(f"model: {out / 'model'}", soft_wrap=True)
    console.print(f"page:  {out / 'report.html'}", soft_wrap=True)


def print_detected(out: Path, manifest: Mapping[str, Any]) -> None:
    """The share of every domain in what a model says by itself."""
    console, results = _console(), manifest["results"]
    table = Table(box=None, padding=(0, 2))
    table.add_column("domain")
    table.add_column("share", justify="right")
    for name, share in results["shares"].items():
        error = results["se"].get(name)
        told = f"{share:.3f}" + (f" ± {error:.3f}" if error is not None else "")
        table.add_row(Text(name), told)
    console.print(table)
    console.print(
        f"{results['texts']:,} texts, {results['tokens']:,} tokens, {results['invalid']} without a "
        f"valid judgement; {results['stopped']}"
    )
    if results["accuracy"] is not None:
        console.print(f"the judge is right on {100 * results['accuracy']:.1f} % of held-out rows")
    print_warnings(console, manifest["warnings"])
    if (out / "texts.jsonl.gz").is_file():
        console.print(f"texts and judgements: {out / 'texts.jsonl.gz'}", soft_wrap=True)
    console.print(f"page: {out / 'report.html'}", soft_wrap=True)


def print_ranked(out: Path, manifest: Mapping[str, Any]) -> None:
    """The ranking as the page draws it, and where it is."""
    from lamina.report.show import render_show

    console = _console()
    console.print(render_show(out))
    console.print(f"scores: {out / 'scores.json'}", soft_wrap=True)
    if (out / "adapter").is_dir():
        console.print(f"adapter: {out / 'adapter'}", soft_wrap=True)
    console.print(f"page:   {out / 'report.html'}", soft_wrap=True)


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Losses per model and text."""
    console = _console()
    for domain in metrics["domains"]:
        table = Table(title=domain, title_justify="left", box=None, padding=(0, 2))
        table.add_column("model")
        for column in ("loss (nats/token)", "tokens", "word perplexity", "byte perplexity"):
            table.add_column(column, justify="right")
        for model, domains in metrics["models"].items():
            entry = domains[domain]
            error = entry.get("loss_se")
            loss = f"{entry['loss']:.4f}" + (f" ± {error:.4f}" if error is not None else "")
            table.add_row(
                Text(model),
                loss,
                f"{entry['tokens']:,}",
                *(
                    f"{entry[key]:,.6g}" if entry.get(key) is not None else "-"
                    for key in ("word_perplexity", "byte_perplexity")
                ),
            )
        console.print(table)
    print_warnings(console, metrics.get("warnings", []))


def print_evaluation(result: Mapping[str, Any], name: str) -> None:
    """Tasks, differences and what they say, as the page has them."""
    from tempfile import TemporaryDirectory

    from lamina.core.manifest import write_json_atomic
    from lamina.report.eval.show import render_evaluation

    with TemporaryDirectory() as folder:  # the report reads files
        file = Path(folder) / f"{name}.json"
        write_json_atomic(file, result, sort_keys=False)
        _console().print(render_evaluation(file))


def print_demo(result: Mapping[str, str]) -> None:
    """The losses, what they say, the tunings of some modules, and where the page is."""
    from lamina.core.manifest import read_json
    from lamina.report.show import render_reading
    from lamina.report.show_demo import render_demo_layers

    console, folder = _console(), Path(result["folder"])
    console.print(losses_table(read_json(folder / "metrics.json")))
    console.print(Text("bold: lowest of all; nats a token, lower is better", style="dim"))
    console.print(render_reading(folder))
    console.print(render_demo_layers(folder))
    console.print(f"page:    {result['page']}", soft_wrap=True)
    console.print(f"numbers: {result['numbers']}", soft_wrap=True)


def losses_table(metrics: Mapping[str, Any]) -> Table:
    """Held-out losses, a line for each domain and a column for each model: fits 80 columns."""
    table = Table(
        title="Loss on held-out text",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("domain")
    names = [name for name in metrics["order"] if name in metrics["models"]]
    for name in names:
        table.add_column(name, justify="right", vertical="bottom")
    for domain in metrics["domains"]:
        losses = [metrics["models"][name][domain]["loss"] for name in names]
        cells = [
            Text(f"{loss:.2f}", style="bold" if loss == min(losses) else "") for loss in losses
        ]
        table.add_row(Text(domain.replace("_", " ")), *cells)
    return table
