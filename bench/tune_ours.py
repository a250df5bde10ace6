"""One measured run of lamina's trainer, for bench/tune.py.

    python bench/tune_ours.py ROWS.npz SETTINGS.json packed|unpacked
    python bench/tune_ours.py ROWS.npz SETTINGS.json constant|foster

The first two: one pass over the examples, as TRL does. The others: some windows, with the held-out
losses after each, and weights that stay or move. Prints one line of JSON.
"""

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from lamina.core.domains import DomainLosses
from lamina.data.encode import Examples
from lamina.data.load import DomainData
from lamina.data.mixture import window_rows
from lamina.data.pack import pack, unpacked
from lamina.engine import run
from lamina.engine.load import find_model
from lamina.engine.recipe import TrainSection
from lamina.engine.state import Identity
from lamina.engine.trainer import ClosedWindow, NextWindow, Steering
from lamina.engine.tunable import load_tunable
from lamina.versatune.recipe import StageSection
from lamina.versatune.steer import Mixture, Stage


@dataclass
class Clock:
    """The time at the end of each step, and how long the parts of a window took."""

    ends: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    held_out: float = 0.0
    deciding: float = 0.0

    def step(self, steps: int) -> None:
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())


@dataclass
class Watched:
    """A steering, timed, with the windows it was shown."""

    inner: Steering
    clock: Clock
    closed: list[ClosedWindow] = field(default_factory=list)

    def begin(self, losses: DomainLosses, watched: DomainLosses | None) -> NextWindow:
        self.clock.held_out = 0.0  # the look before the first window belongs to no window
        return self.inner.begin(losses, watched)

    def close(self, closed: ClosedWindow) -> NextWindow:
        began = time.perf_counter()
        following = self.inner.close(closed)
        self.clock.deciding += time.perf_counter() - began
        self.closed.append(closed)
        return following

    def state(self) -> dict[str, Any]:
        return self.inner.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.inner.restore(state)


@dataclass
class Still:
    """Weights that stay: each domain's share of the rows, so one window reads every row once."""

    weights: dict[str, float]

    def begin(self, losses: DomainLosses, watched: DomainLosses | None) -> NextWindow:
        return NextWindow(self.weights, unit="rows")

    def close(self, closed: ClosedWindow) -> NextWindow:
        return NextWindow(self.weights, unit="rows")

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


def domains(path: str, *, packing: bool, length: int, heldout: int) -> dict[str, DomainData]:
    """What bench/tune_rows.py wrote, packed here; at most `heldout` examples of a domain."""
    found = {}
    with np.load(path) as arrays:

        def part(name: str) -> Examples:
            values = {f: arrays[f"{name}/{f}"] for f in ("ids", "trained", "starts", "num_bytes")}
            places = tuple(f"{name}:{n}" for n in range(len(values["num_bytes"])))
            return Examples(**values, places=places)

        for name in dict.fromkeys(n.partition("/")[0] for n in arrays.files):
            train, held_out = part(f"{name}/train"), part(f"{name}/heldout")
            held_out = held_out.take(np.arange(min(heldout, len(held_out))))
            rows = pack(train, max_length=length) if packing else unpacked(train)
            found[name] = DomainData(name, rows, held_out, {}, name)
    return found


def mixture(policy: str, data: Mapping[str, DomainData], windows: int, rows: int) -> Mixture:
    """The steering of `lamina tune`, from given reference losses."""
    own: dict[str, Any] = {"growth": 16} if policy == "foster" else {}
    section = StageSection.model_validate({"policy": policy, "start": "uniform", **own})
    references = {name: 1.0 + 0.5 * number for number, name in enumerate(data)}
    uniform = dict.fromkeys(data, 1 / len(data))
    return Mixture(
        [Stage(section, windows, uniform, references, "uniform")],
        sizes={name: len(domain.train) for name, domain in data.items()},
        rows_per_window=rows,
        tokens_per_row={n: float(d.train.trained_tokens.mean()) for n, d in data.items()},
    )


def tokens_of_steps(
    data: Mapping[str, DomainData], closed: list[ClosedWindow], *, seed: int, batch: int
) -> list[int]:
    """Tokens of each step, from the windows' rows: a pure function."""
    sizes = {name: len(domain.train) for name, domain in data.items()}
    lengths = [domain.train.tokens for domain in data.values()]
    cursors = dict.fromkeys(data, 0)
    steps = []
    for window in closed:
        rows = window_rows(
            seed=seed, window=window.window, counts=window.rows, cursors=cursors, sizes=sizes
        )
        tokens = np.array([lengths[domain][row] for domain, row in rows])
        steps += tokens.reshape(-1, batch).sum(1).tolist()
        cursors = dict(window.rows_read)
    return steps


def main() -> None:
    path, settings, way = sys.argv[1:]
    s = json.loads(Path(settings).read_text())
    moving = way in ("constant", "foster")
    heldout = s["heldout"] if moving else 2
    data = domains(path, packing=way != "unpacked", length=s["length"], heldout=heldout)
    rows = sum(len(domain.train) for domain in data.values())
    windows, steps = (s["windows"], s["window_steps"]) if moving else (1, rows // s["batch"])
    train = TrainSection(
        windows=windows,
        window_steps=steps,
        batch_size=s["batch"],
        learning_rate=s["learning_rate"],
        schedule="constant",
        warmup=0,
        dtype=s["dtype"],
        rank=s["rank"],
        alpha=s["alpha"],
        report_to=(),
    )
    clock, measure = Clock(), run.heldout_losses

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        found = measure(*args, **kwargs)
        clock.held_out += time.perf_counter() - began
        return found

    run.heldout_losses = timed
    still = Still({name: len(domain.train) / rows for name, domain in data.items()})
    inner = mixture(way, data, windows, steps * s["batch"]) if moving else still
    steering = Watched(inner, clock)
    model = load_tunable(find_model(s["model"]), train)
    with tempfile.TemporaryDirectory() as out:
        run.run_windows(
            model,
            data,
            train,
            steering=steering,
            folder=Path(out) / "checkpoints",
            identity=Identity("", "", "", 1),
            pad_id=0,
            advance=clock.step,
        )
    real = tokens_of_steps(data, steering.closed, seed=train.seed, batch=s["batch"])
    # Windows: from the first step's end to the last window's end, what lies between included.
    first, last = 0, len(clock.ends) - (1 if moving else 2)
    trained = {n: sum(w.tokens[n] for w in steering.closed) for n in data}
    loss = sum((w.train_loss[n] or 0) * w.tokens[n] for w in steering.closed for n in data)
    print(
        json.dumps(
            {
                "tokens": sum(real[first + 1 : last + 1]),
                "seconds": clock.ends[last] - clock.ends[first],
                "cpu_seconds": clock.cpu[last] - clock.cpu[first],
                "steps": last - first,
                "loss": loss / sum(trained.values()),
                "all_tokens": sum(real),
                "held_out_seconds": clock.held_out,
                "held_out_tokens": sum(len(d.heldout.ids) for d in data.values()) * windows,
                "deciding_seconds": clock.deciding,
                "weights": steering.closed[-1].weights,
                "versions": {m.__name__: m.__version__ for m in (torch, transformers)},
            }
        )
    )


if __name__ == "__main__":
    main()
