"""Folders of tunings and detections as values; what is damaged is told, never fatal."""

import gzip
import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lamina.core.errors import DataError
from lamina.report.page import write_report
from lamina.report.show import render_show
from lamina.report.tune.read import kind_of, read_tuned

FILES = ("manifest.json", "ledger.json", "data.json", "reference.json", "detect/shares.json")


def test_a_folder_is_known_by_its_manifest_or_by_its_files(
    make: ModuleType, make_tuned: ModuleType, tmp_path: Path
) -> None:
    tune, detect = make_tuned.make_tune(tmp_path / "t"), make_tuned.make_detect(tmp_path / "d")
    assert (kind_of(tune), kind_of(detect)) == ("tune", "detect")
    for folder in (tune, detect):
        (folder / "manifest.json").unlink()
    assert (kind_of(tune), kind_of(detect)) == ("tune", "detect")
    assert kind_of(detect, {"kind": "tune"}) == "tune"
    assert kind_of(make.make_lata(tmp_path / "m")) is None
    assert kind_of(tmp_path) is None


def test_a_folder_of_something_else_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`lamina tune` or `lamina detect` wrote"):
        read_tuned(tmp_path)


def test_everything_of_a_tuning_is_read(tuned: dict[str, Path], make_tuned: ModuleType) -> None:
    read = read_tuned(tuned["two-stages"])
    assert read.problems == ()
    assert read.domains == make_tuned.FIVE
    assert [window.number for window in read.windows] == list(range(11))
    assert {window.stage for window in read.windows} == {"foster", "expand"}
    assert read.ledger is not None
    assert [stage.name for stage in read.ledger.stages] == ["start", "foster", "expand"]
    assert read.ledger.stages[2].domains == ("law",)
    assert read.ledger.general is not None
    assert read.ledger.general.total is not None
    assert read.ledger.gate is not None
    assert not read.ledger.gate.crossed
    assert read.reference is not None
    assert read.reference.degenerate == ("law",)
    assert read.detection is not None
    assert len(read.detection.repeats) == 5
    assert read.data is not None
    assert len(read.data.domains["law"].samples) == 3


def test_a_bare_true_for_a_degenerate_reference_names_no_domain(
    make_tuned: ModuleType, tmp_path: Path
) -> None:
    folder = make_tuned.make_tune(tmp_path)
    data = json.loads((folder / "reference.json").read_text())
    (folder / "reference.json").write_text(json.dumps(data | {"degenerate": True}))
    read = read_tuned(folder)
    assert read.reference is not None
    assert read.reference.degenerate == ()
    assert read.problems == ()


def test_of_a_window_written_twice_the_last_counts(make_tuned: ModuleType, tmp_path: Path) -> None:
    folder = make_tuned.make_tune(tmp_path, stages=(("foster", 2),))
    lines = (folder / "domains.jsonl").read_text().splitlines()
    again = json.loads(lines[1]) | {"reason": "again"}
    (folder / "domains.jsonl").write_text("\n".join([*lines, json.dumps(again)]))
    assert [window.reason for window in read_tuned(folder).windows][1:] == ["again"]


def test_the_sampled_texts_have_each_domain_first_and_one_without_a_judgement(
    tuned: dict[str, Path], make_tuned: ModuleType
) -> None:
    detection = read_tuned(tuned["detected"]).detection
    assert detection is not None
    assert len(detection.sampled) == 8
    tops = [max(one.judged, key=one.judged.__getitem__) for one in detection.sampled if one.judged]
    assert tuple(tops[:6]) == make_tuned.FIVE
    assert sum(one.judged is None for one in detection.sampled) == 1


def test_texts_cut_short_are_read_as_far_as_they_go(make_tuned: ModuleType, tmp_path: Path) -> None:
    folder = make_tuned.make_detect(tmp_path)
    lines = b"".join(
        json.dumps({"text": random.Random(n).randbytes(40).hex(), "judged": None}).encode() + b"\n"
        for n in range(2000)
    )
    (folder / "texts.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0)[:-9000])
    read = read_tuned(folder)
    assert read.detection is not None
    assert len(read.detection.sampled) == 8
    assert any(one.startswith("texts.jsonl.gz cannot be read to its end") for one in read.problems)
    (folder / "texts.jsonl.gz").write_bytes(b"no gzip")
    read = read_tuned(folder)
    assert read.detection is not None
    assert read.detection.sampled == ()
    assert str(tmp_path) not in "".join(read.problems)


def test_an_unfinished_run_shows_the_windows_of_its_newest_checkpoint(
    make_tuned: ModuleType, tmp_path: Path
) -> None:
    folder = make_tuned.make_tune(tmp_path)
    lines = [json.loads(line) for line in (folder / "domains.jsonl").read_text().splitlines()]
    for name in ("domains.jsonl", "ledger.json", "manifest.json"):
        (folder / name).unlink()
    for step, many in ((60, 3), (120, 6)):
        state = {"schema": "lamina.mixture/1", "steering": {"history": lines[:many]}}
        make_tuned.write(folder / "checkpoints" / f"checkpoint-{step}" / "mixture.json", state)
    (folder / "checkpoints" / "checkpoint-999").mkdir()
    read = read_tuned(folder)
    assert len(read.windows) == 6
    assert not read.run.finished
    assert any("those of checkpoint-120/mixture.json" in one for one in read.problems)


@pytest.mark.parametrize("name", ["domains.jsonl", "ledger.json", "data.json"])
def test_a_missing_file_is_told(make_tuned: ModuleType, tmp_path: Path, name: str) -> None:
    folder = make_tuned.make_tune(tmp_path)
    (folder / name).unlink()
    assert read_tuned(folder).problems == (
        f"{name} is missing or empty: what it would tell is not on this page.",
    )
    assert name in write_report(folder).read_text("utf-8")


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_told_on_the_page(
    make_tuned: ModuleType, tmp_path: Path, name: str
) -> None:
    folder = make_tuned.make_tune(tmp_path)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    text = write_report(folder).read_text("utf-8")
    assert f"{name} is left out" in text
    assert str(tmp_path) not in text


JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, -1e308, 10**400, float("nan"), float("inf"), "", "x" * 3000,
    "<b>&\u202e\x00", [], {}, [[]], {"": {}}, [None], {"a": 1}, {"law": "x"}, [1, 2, 3],
)  # fmt: skip


def _spoil(value: Any, rng: random.Random, chance: float) -> Any:
    """The value with some of its parts replaced, dropped or doubled."""
    if rng.random() < chance:
        return rng.choice(JUNK)
    if isinstance(value, dict):
        return {
            (key if rng.random() > chance else key + "?"): _spoil(one, rng, chance)
            for key, one in value.items()
            if rng.random() > chance
        }
    if isinstance(value, list):
        return [_spoil(one, rng, chance) for one in value if rng.random() > chance] * rng.choice(
            (1, 1, 1, 2)
        )
    return value


@pytest.mark.parametrize("seed", range(12))
def test_no_damage_stops_the_page_or_the_terminal(
    make_tuned: ModuleType, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    folder = make_tuned.make_tune(tmp_path / "run", stages=(("foster", 2), ("expand", 2)))
    for name in ("ledger.json", "data.json", "reference.json", "detect/shares.json"):
        value = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(_spoil(value, rng, 0.06)))
    manifest = json.loads((folder / "manifest.json").read_text())
    spoilt = {key: _spoil(value, rng, 0.1) for key, value in manifest.items() if key != "kind"}
    (folder / "manifest.json").write_text(json.dumps(spoilt | {"kind": "tune"}))
    lines = [json.loads(line) for line in (folder / "domains.jsonl").read_text().splitlines()]
    (folder / "domains.jsonl").write_text(
        "\n".join(json.dumps(_spoil(line, rng, 0.05)) for line in lines)
    )
    texts = gzip.decompress((folder / "detect" / "texts.jsonl.gz").read_bytes()).splitlines()
    body = "\n".join(json.dumps(_spoil(json.loads(line), rng, 0.1)) for line in texts)
    (folder / "detect" / "texts.jsonl.gz").write_bytes(gzip.compress(body.encode(), mtime=0))
    path = write_report(folder)
    assert "</html>" in path.read_text("utf-8")
    render_show(folder)
