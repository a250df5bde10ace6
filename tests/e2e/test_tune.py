"""`lamina tune` as a user meets it: what a run folder holds, that it is true, and once more."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tune_kit as kit

from lamina.engine.load import quiet
from lamina.jobs.verify import verify_folder

FIELDS = set(
    "window step stage policy weights rows tokens share loss loss_se potential forgetting repeats "
    "train_loss reason".split()
)
BY_DOMAIN = FIELDS - {"window", "step", "stage", "policy", "reason"}
ANSWER = ("<|user|>\n{prompt}<|end|>\n<|assistant|>\n", "{completion}<|end|>", "\n")
HELDOUT = {
    name: {"path": f"rows/{name}.jsonl", "heldout": f"held/{name}.jsonl"} for name in kit.NAMES
}
FOSTER = {
    "policy": "foster",
    "start": "uniform",
    "reference": {"way": "fraction", "fraction": 0.5},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = kit.write_home(tmp_path_factory.mktemp("home"))
    for name in kit.NAMES:
        kit.write_rows(folder / "held" / f"{name}.jsonl", kit.rows_of(name, 8, seed=1))
    kit.write_rows(folder / "plain.jsonl", [{"text": "The sum of two primes."}, {"text": "Yes."}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMINA_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def foster(home: Path) -> tuple[Path, dict[str, Any]]:
    """A run with everything in it: `plain.jsonl` is watched, the weights move."""
    return kit.tune(home, "foster", domains=HELDOUT, mixture=FOSTER, general="plain.jsonl")


def held_out_loss(network: Any, home: Path, name: str) -> float:
    """Nats a token, by transformers alone: one row after the other, no packing, no mask."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(home / "model")
    total, count = 0.0, 0
    for row in map(json.loads, (home / "held" / f"{name}.jsonl").read_text().splitlines()):
        asked, said, end = (part.format(**row) for part in ANSWER)
        encoded = tokenizer(
            asked + said + end, return_offsets_mapping=True, add_special_tokens=False
        )
        ids = torch.tensor([encoded["input_ids"]])
        with torch.no_grad():
            log_probs = network(input_ids=ids).logits[0].double().log_softmax(-1)
        for place, (begin, stop) in enumerate(encoded["offset_mapping"]):
            if len(asked) <= begin and stop <= len(asked + said):
                total -= float(log_probs[place - 1, ids[0, place]])
                count += 1
    return total / count


def test_the_run_folder_holds_what_it_promises(foster: tuple[Path, dict[str, Any]]) -> None:
    out, manifest = foster
    assert {path.name for path in out.iterdir()} == set(
        "recipe.yaml data.json domains.jsonl ledger.json reference.json model checkpoints "
        "log.jsonl report.html manifest.json".split()
    )
    assert (manifest["kind"], manifest["status"]) == ("tune", "done")
    assert {"recipe.yaml", "data.json", "domains.jsonl", "model/model.safetensors"} <= set(
        manifest["outputs"]
    )
    assert verify_folder(out) == []
    events = [json.loads(line)["event"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert events == ["begun", "data", "trained", "written"]


def test_each_line_has_the_fields_of_the_format(foster: tuple[Path, dict[str, Any]]) -> None:
    lines = kit.lines_of(foster[0])
    assert [line["window"] for line in lines] == [0, 1, 2]
    assert [line["step"] for line in lines] == [3, 6, 9]
    for line in lines:
        assert set(line) == FIELDS
        for field in BY_DOMAIN:
            assert tuple(line[field]) == kit.NAMES, field
            assert all(math.isfinite(number) for number in line[field].values()), field
        assert math.isclose(sum(line["weights"].values()), 1, abs_tol=1e-12)
        assert sum(line["rows"].values()) == 6
        total = sum(line["tokens"].values())
        assert line["share"] == {name: count / total for name, count in line["tokens"].items()}
        assert line["reason"]
        assert line["policy"] == line["stage"] == "foster"
    assert lines[0]["reason"] == "start: uniform"
    assert lines[0]["weights"] != lines[1]["weights"]


def test_the_ledger_repeats_what_the_lines_say(
    home: Path, foster: tuple[Path, dict[str, Any]]
) -> None:
    out, manifest = foster
    lines, ledger = kit.lines_of(out), kit.json_of(out / "ledger.json")
    assert ledger["schema"] == "lamina.ledger/1"
    assert ledger["unit"] == "nats per token"
    assert [stage["step"] for stage in ledger["stages"]] == [0, 9]
    for name in kit.NAMES:
        start, end = ledger["losses"][name]
        assert end["loss"] == lines[-1]["loss"][name] == manifest["results"]["end"][name]
        assert end["loss"] < start["loss"]
        change = ledger["total"][name]
        assert math.isclose(change["value"], end["loss"] - start["loss"], abs_tol=1e-12)
        assert change["low"] < change["value"] < change["high"]
    assert ledger["general"]["path"] == "plain.jsonl"
    assert len(ledger["general"]["losses"]) == 2
    assert ledger["gate"] == {"max_forgetting": None, "crossed": None}


def test_the_reference_is_the_asked_fraction_of_the_first_loss(
    foster: tuple[Path, dict[str, Any]],
) -> None:
    reference = kit.json_of(foster[0] / "reference.json")
    ledger = kit.json_of(foster[0] / "ledger.json")
    assert (reference["way"], reference["unit"]) == ("fraction", "nats per token")
    for name, loss in reference["losses"].items():
        assert loss == 0.5 * ledger["losses"][name][0]["loss"]
    line = kit.lines_of(foster[0])[-1]
    for name in kit.NAMES:
        loss = line["loss"][name]
        assert line["potential"][name] == (loss - reference["losses"][name]) / loss


def test_the_data_are_told_with_samples(foster: tuple[Path, dict[str, Any]]) -> None:
    data = kit.json_of(foster[0] / "data.json")
    assert data["schema"] == "lamina.data/1"
    for name in kit.NAMES:
        entry = data["domains"][name]
        assert entry["heldout"] == 8
        assert len(entry["samples"]) == 3
        for sample in entry["samples"]:
            said = "".join(text for text, trained in sample["pieces"] if trained)
            assert set(said.removesuffix("<|end|>").split()) <= set(kit.WORDS[name])


def test_a_full_model_loads_and_has_the_loss_of_the_ledger(
    home: Path, foster: tuple[Path, dict[str, Any]]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(foster[0] / "model").eval()
    assert len(AutoTokenizer.from_pretrained(foster[0] / "model")) == 4096
    for name, loss in kit.lines_of(foster[0])[-1]["loss"].items():
        assert math.isclose(held_out_loss(network, home, name), loss, rel_tol=1e-6)


def test_an_adapter_loads_and_has_the_loss_of_the_ledger(home: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lora = {"method": "lora", "rank": 4, "learning_rate": 2e-2, "windows": 2}
    out, _ = kit.tune(home, "lora", domains=HELDOUT, train=lora)
    files = {path.name for path in (out / "model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= files
    base = AutoModelForCausalLM.from_pretrained(home / "model")
    with quiet():  # PEFT calls something that transformers deprecates
        network = PeftModel.from_pretrained(base, str(out / "model")).eval()
    start = kit.json_of(out / "ledger.json")["losses"]
    for name, loss in kit.lines_of(out)[-1]["loss"].items():
        assert math.isclose(held_out_loss(network, home, name), loss, rel_tol=1e-6)
        assert loss < start[name][0]["loss"] - 0.01


def test_the_same_recipe_gives_the_same_bytes_and_touches_no_input(
    home: Path, foster: tuple[Path, dict[str, Any]]
) -> None:
    inputs = {part: kit.files_of(home / part) for part in ("model", "rows", "held")}
    out, manifest = kit.tune(home, "twice", domains=HELDOUT, mixture=FOSTER, general="plain.jsonl")
    wanted = kit.files_of(foster[0])
    assert len(wanted) > 8
    assert kit.files_of(out) == wanted
    assert manifest["outputs"] == foster[1]["outputs"]
    assert {part: kit.files_of(home / part) for part in inputs} == inputs


def test_the_recipe_of_a_run_runs_again_as_it_is(
    home: Path, foster: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.parent)
    kit.run_tune(foster[0] / "recipe.yaml", home / "again")
    assert same_paths(kit.files_of(home / "again")) == same_paths(kit.files_of(foster[0]))


def same_paths(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files without the way from the recipe to its rows, which they tell."""
    return {name: data.replace(b"../", b"") for name, data in files.items()}


# ---- policies, stages, starts ------------------------------------------------------------------

SHORT = {"windows": 2, "window_steps": 1}


@pytest.mark.parametrize(
    "policy",
    ["uniform", "inverse", "constant", "expand", "doremi", "sheared", "odm", "velocity"],
)
def test_every_policy_runs(home: Path, policy: str) -> None:
    mixture: dict[str, Any] = {"policy": policy, "start": {"law": 0.5, "code": 0.3, "maths": 0.2}}
    if policy in ("expand", "doremi", "sheared", "velocity"):
        mixture["reference"] = {"way": "fraction"}
    if policy == "expand":
        mixture["target"] = "law"
    if policy == "uniform":
        del mixture["start"]
    general = "default" if policy == "uniform" else None
    out, manifest = kit.tune(
        home, policy, domains=HELDOUT, train=SHORT, mixture=mixture, general=general
    )
    first, second = (line["weights"] for line in kit.lines_of(out))
    start = mixture.get("start", {})
    match policy:
        case "uniform":
            assert all(math.isclose(weight, 1 / 3, rel_tol=1e-9) for weight in first.values())
            assert kit.json_of(out / "ledger.json")["general"]["losses"]
        case "inverse":
            assert first["law"] < first["code"] < first["maths"]
        case _:
            assert all(math.isclose(first[name], start[name], abs_tol=1e-4) for name in first)
    assert (first == second) == (policy in ("uniform", "inverse", "constant"))
    if policy == "expand":
        assert math.isclose(second["law"], 0.55, abs_tol=1e-3)
    assert manifest["status"] == "done"


def test_stages_follow_one_another(home: Path) -> None:
    reference = {"way": "given", "losses": {"law": 4.0, "code": 5.0, "maths": 6.0}}
    first = {"policy": "foster", "start": "by_size", "windows": 2, "reference": reference}
    second = {"policy": "expand", "name": "grow", "target": "law", "windows": 2}
    mixture = [first, second | {"reference": reference}, {"policy": "uniform", "windows": 1}]
    out, _ = kit.tune(
        home, "stages", domains=HELDOUT, train={"window_steps": 2, "windows": 5}, mixture=mixture
    )
    lines, ledger = kit.lines_of(out), kit.json_of(out / "ledger.json")
    assert [line["stage"] for line in lines] == ["foster", "foster", "grow", "grow", "uniform"]
    assert ledger["stages"] == [
        {"name": "start", "step": 0},
        {"name": "foster", "step": 4, "policy": "foster", "domains": None},
        {"name": "grow", "step": 8, "policy": "expand", "domains": ["law"]},
        {"name": "uniform", "step": 10, "policy": "uniform", "domains": None},
    ]
    data = kit.json_of(out / "data.json")["domains"]
    total = sum(entry["trained_tokens"] for entry in data.values())
    for name, weight in lines[0]["weights"].items():
        assert math.isclose(weight, data[name]["trained_tokens"] / total, abs_tol=1e-4)
    assert "start: by_size" in lines[0]["reason"]
    assert "law" in lines[3]["reason"]
    assert math.isclose(lines[3]["weights"]["law"], lines[2]["weights"]["law"] + 0.05, abs_tol=1e-3)
    assert all(math.isclose(w, 1 / 3, rel_tol=1e-9) for w in lines[4]["weights"].values())
    for name in kit.NAMES:
        assert [e["loss"] for e in ledger["losses"][name][1:]] == [
            lines[n]["loss"][name] for n in (1, 3, 4)
        ]
    kit.run_tune(out / "recipe.yaml", home / "stages again")
    assert same_paths(kit.files_of(home / "stages again")) == same_paths(kit.files_of(out))


def test_a_start_may_be_detected_shares_from_a_folder(home: Path) -> None:
    shares = {"law": 0.6, "code": 0.3, "maths": 0.1}
    (home / "known").mkdir()
    (home / "known" / "shares.json").write_text(json.dumps({"shares": shares}))
    out, manifest = kit.tune(
        home,
        "detected",
        train=SHORT,
        mixture={"policy": "inverse", "start": "detected", "detected": "known", "smoothing": 0},
    )
    first = kit.lines_of(out)[0]["weights"]
    parts = {name: 1 / share for name, share in shares.items()}
    for name, part in parts.items():
        assert math.isclose(first[name], part / sum(parts.values()), rel_tol=1e-9)
    assert manifest["results"]["detected"] == shares
    assert not (out / "detect").exists()


def test_a_start_may_be_detected_in_the_run(home: Path) -> None:
    changes = {
        "train": SHORT,
        "mixture": {"policy": "constant", "start": "detected"},
        "detect": {"judge": "losses"},
    }
    out, manifest = kit.tune(home, "detecting", **changes)
    shares = kit.json_of(out / "detect" / "shares.json")["shares"]
    assert set(shares) == set(kit.NAMES)
    assert manifest["results"]["detected"] == shares
    assert "detect/shares.json" in manifest["outputs"]
    for name, weight in kit.lines_of(out)[0]["weights"].items():
        assert math.isclose(weight, shares[name], abs_tol=1e-3)


def test_weights_may_be_shares_of_rows_and_repeats_are_capped(home: Path) -> None:
    start = {"law": 0.2, "code": 0.2, "maths": 0.6}
    mixture = {"policy": "constant", "start": start, "unit": "rows", "max_repeats": 0.5}
    train = {"windows": 3, "window_steps": 4, "batch_size": 5}
    out, _ = kit.tune(home, "by rows", train=train, mixture=mixture)
    lines = kit.lines_of(out)
    assert lines[0]["rows"] != lines[1]["rows"]
    assert lines[0]["repeats"]["maths"] <= 0.5 + 1 / 18  # rounded to whole rows
    data = kit.json_of(out / "data.json")["domains"]
    for name in kit.NAMES:
        read = sum(line["rows"][name] for line in lines)
        assert lines[-1]["repeats"][name] == read / data[name]["rows"]
    for line in lines:
        for name, count in line["rows"].items():
            assert abs(count - 20 * line["weights"][name]) < 1


def test_domains_may_be_compared_by_nats_a_byte(home: Path) -> None:
    mixture = FOSTER | {"loss_unit": "bytes"}
    out, _ = kit.tune(home, "bytes", domains=HELDOUT, train=SHORT, mixture=mixture)
    ledger, reference = kit.json_of(out / "ledger.json"), kit.json_of(out / "reference.json")
    assert ledger["unit"] == reference["unit"] == "nats per byte"
    last = kit.lines_of(out)[-1]
    for name in kit.NAMES:
        start, end = (entry["loss"] for entry in ledger["losses"][name])
        assert reference["losses"][name] == 0.5 * start
        assert last["potential"][name] == (end - 0.5 * start) / end
        rows = kit.rows_of(name, 8, seed=1)
        said = sum(len((row["completion"] + "<|end|>").encode()) for row in rows)
        words = sum(len(row["completion"].encode()) for row in rows)
        tokens = ledger["losses"][name][-1]["tokens"]
        ratio = last["loss"][name] * tokens / end
        assert words <= round(ratio) <= said


# ---- what keeps, what stops --------------------------------------------------------------------


def divergence(home: Path, out: Path, name: str) -> float:
    """KL from the starting model, nats a token, over the held-out rows of a domain."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    old, new = (
        AutoModelForCausalLM.from_pretrained(folder / "model").eval() for folder in (home, out)
    )
    tokenizer = AutoTokenizer.from_pretrained(home / "model")
    total, count = 0.0, 0
    for row in kit.rows_of(name, 8, seed=1):
        asked, said, _ = (part.format(**row) for part in ANSWER)
        ids = torch.tensor([tokenizer(asked + said, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            before, after = (
                m(input_ids=ids).logits[0].double().log_softmax(-1) for m in (old, new)
            )
        total += float((before.exp() * (before - after)).sum())
        count += ids.shape[1]
    return total / count


def test_self_distillation_holds_what_old_domains_say(home: Path) -> None:
    train = {"windows": 1, "window_steps": 8, "batch_size": 4}
    mixture = {"policy": "constant", "start": {"law": 0.5, "code": 0.5, "maths": 0}, "smoothing": 0}
    free, _ = kit.tune(home, "free", domains=HELDOUT, train=train, mixture=mixture)
    held, _ = kit.tune(
        home, "distilled", domains=HELDOUT, train=train, mixture=mixture,
        self_distillation={"weight": 30.0, "domains": ["code"]},
    )  # fmt: skip
    assert divergence(home, held, "code") < 0.5 * divergence(home, free, "code")
    law = [kit.lines_of(out)[-1]["loss"]["law"] for out in (free, held)]
    start = kit.json_of(held / "ledger.json")["losses"]["law"][0]["loss"]
    assert law[1] < start


def test_the_gate_ends_the_run_with_its_own_code(home: Path, lamina: Any) -> None:
    recipe = kit.write_recipe(
        home,
        "gate.yaml",
        domains=HELDOUT,
        max_forgetting=0.01,
        train={"windows": 9, "window_steps": 4, "learning_rate": 2e-2},
        mixture={"policy": "constant", "start": {"law": 1.0, "code": 0, "maths": 0}},
    )
    told = lamina("tune", recipe, "--out", home / "gate")
    assert told.code == 3, told.err
    manifest = kit.json_of(home / "gate" / "manifest.json")
    lines, ledger = kit.lines_of(home / "gate"), kit.json_of(home / "gate" / "ledger.json")
    crossed = ledger["gate"]["crossed"]
    assert manifest["status"] == "forgot"
    assert f"{crossed['domain']} forgot" in manifest["results"]["stopped"]
    assert crossed["value"] > 0.01
    assert crossed["window"] == lines[-1]["window"] < 8
    assert (home / "gate" / "model" / "model.safetensors").is_file()

    # Stopped after the last checkpoint and before the manifest: the run is over all the same.
    before = kit.files_of(home / "gate")
    (home / "gate" / "manifest.json").unlink()
    again = lamina("tune", recipe, "--out", home / "gate", "--resume")
    assert again.code == 3
    assert kit.files_of(home / "gate") == before
    once_more = lamina("tune", recipe, "--out", home / "gate", "--resume")
    assert once_more.code == 3
    assert "nothing is left to do" in once_more.err


# ---- ways to compute the same ------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(home: Path) -> list[dict[str, Any]]:
    return kit.lines_of(kit.tune(home, "plain", domains=HELDOUT, train={"windows": 2})[0])


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        ({"gradient_checkpointing": True}, 1e-6),
        ({"attention": "eager"}, 1e-6),
        ({"batch_size": 1, "accumulate": 2}, 1e-6),
        ({"dtype": "bfloat16"}, 2e-2),
    ],
    ids=["checkpointing", "eager", "accumulation", "bfloat16"],
)
def test_other_ways_to_compute_give_the_same_losses(
    home: Path, plain: list[dict[str, Any]], change: dict[str, Any], tolerance: float
) -> None:
    name = "-".join(change)
    out, _ = kit.tune(home, name, domains=HELDOUT, train={"windows": 2} | change)
    for ours, theirs in zip(kit.lines_of(out), plain, strict=True):
        assert ours["rows"] == theirs["rows"]
        for domain, loss in theirs["loss"].items():
            assert math.isclose(ours["loss"][domain], loss, rel_tol=tolerance)
