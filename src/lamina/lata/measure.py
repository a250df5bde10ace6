"""LATA's first pass: how like the instruction vector is each layer of each expert?

With u = instruct - base (eq. 4) and t = expert - instruct (eq. 7) the complex vector is c = u + t,
so three sums per layer say everything, A = <u,u>, B = <t,t>, C = <t,u>:

    s = cos(c, u) = (A + C) / (sqrt(A) sqrt(A + 2C + B))                                    (eq. 6)

One streaming pass over base, instruct and all experts. The sums of every tensor are kept in a cache
by the models' fingerprints and files: another rule, granularity or weight costs no pass at all.
"""

import hashlib
import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lamina.core.layers import LayerMap
from lamina.core.manifest import cache_folder, write_json_atomic
from lamina.core.scores import LayerScores
from lamina.merge.inputs import Inputs
from lamina.merge.sources import Sources
from lamina.weights import kernels
from lamina.weights.sources import DTYPE_CODES, digest_of
from lamina.weights.stream import Scratch, chunks, each_tensor

SCHEMA = "lamina.gram/1"


@dataclass(frozen=True, slots=True)
class Gram:
    """The sums of one tensor, or of one layer: A = <u,u>, B = <t,t>, C = <t,u>."""

    A: float
    B: float
    C: float

    def __add__(self, other: "Gram") -> "Gram":
        return Gram(self.A + other.A, self.B + other.B, self.C + other.C)


@dataclass(frozen=True, slots=True)
class TensorGram:
    """One tensor's sums, its checksums by role, and values that are not finite by role."""

    gram: Gram
    checksums: Mapping[str, str]
    nonfinite: Mapping[str, int]


Grams = Mapping[str, TensorGram]
"""By tensor name, for one expert."""


def similarity(gram: Gram) -> float:
    """cos(c, u) from A, B, C (eq. 6), in [-1, 1].

    Where the paper is silent: an expert that did not move (B = 0) has 1, an instruct model that did
    not move (A = 0, B > 0) has 0 (docs/papers.md).
    """
    if gram.B == 0.0:
        return 1.0
    complex_square = gram.A + 2.0 * gram.C + gram.B
    if gram.A == 0.0 or complex_square <= 0.0:
        return 0.0
    cosine = (gram.A + gram.C) / (math.sqrt(gram.A) * math.sqrt(complex_square))
    return max(-1.0, min(1.0, cosine))


def measure(
    inputs: Inputs,
    sources: Sources,
    *,
    threads: int,
    progress: Callable[[int], None],
    cache: Path | None = None,
) -> dict[str, Grams]:
    """The sums of every tensor for every expert, from the cache where they are known.

    One pass over the experts that are not known yet; base and instruct are read once for them all.
    """
    assert inputs.base is not None and inputs.reference is not None
    folder = cache_folder() if cache is None else cache
    prefix = f"{inputs.base.identity}/{inputs.reference.identity}"
    keys = {
        name: f"{prefix}/{model.identity}{_common_rows(inputs, name)}"
        for name, model in inputs.experts.items()
    }
    found = {name: _from_cache(folder, key) for name, key in keys.items()}
    grams = {name: known for name, known in found.items() if known is not None}
    missing = [name for name in keys if name not in grams]
    if missing:
        grams |= _pass(inputs, sources, missing, threads=threads, progress=progress)
        for name in missing:
            _to_cache(folder, keys[name], grams[name])
    return {name: grams[name] for name in keys}


def _common_rows(inputs: Inputs, expert: str) -> str:
    """What of a vocabulary is summed, where not all of it: that depends on the target too."""
    rows = [dict(inputs.rows.get(role, {})) for role in ("base", "reference", expert)]
    return f"/{json.dumps(rows, sort_keys=True)}" if any(rows) else ""


def _pass(
    inputs: Inputs,
    sources: Sources,
    experts: list[str],
    *,
    threads: int,
    progress: Callable[[int], None],
) -> dict[str, dict[str, TensorGram]]:
    assert inputs.reference is not None and sources.reference and sources.base
    reference, base = sources.reference, sources.base
    grams: dict[str, dict[str, TensorGram]] = {name: {} for name in experts}
    lock = threading.Lock()
    num = len(experts)

    def work(name: str, scratch: Scratch, stop: threading.Event) -> None:
        tensor = inputs.reference.tensors[name]  # type: ignore[union-attr]
        if tensor.dtype not in DTYPE_CODES:
            return
        total = tensor.num_elements
        width = total // max(1, tensor.shape[0] if tensor.shape else 1)

        def end_of(role: str) -> int:
            rows = [inputs.rows.get(r, {}).get(name) for r in (role, "reference")]
            known = [width * count for count in rows if count is not None]
            return min([total, *known])

        ends = [end_of(expert) for expert in experts] + [end_of("base")]
        sums = np.zeros((1 + 2 * num, 32))
        hashes, counts = np.zeros((num + 2, 32), np.uint64), np.zeros(num + 2, np.int64)
        for first, n in chunks(total):
            if stop.is_set():
                return
            addresses = np.zeros(num, np.uint64)
            for k, expert in enumerate(experts):
                source = sources.experts[expert]
                buffer = scratch.get(f"expert{k}") if source.needs_scratch else None
                if first < ends[k]:
                    m = min(n, ends[k] - first)
                    addresses[k] = source.chunk(name, first, m, buffer)
            has_base = first < ends[num]
            at = base.chunk(name, first, min(n, ends[num] - first), None) if has_base else 0
            kernels.gram(
                n,
                at,
                base.dtype(name),
                reference.chunk(name, first, n, None),
                reference.dtype(name),
                addresses,
                np.array([sources.experts[e].dtype(name) for e in experts], np.int64),
                np.array([max(0, min(n, end - first)) for end in ends], np.int64),
                hashes,
                sums,
                counts,
            )
            for source in sources.all():
                source.release(name, first, n)
            progress(n)
        total_sums = sums.sum(axis=1)

        def digest(row: int, dtype: int, end: int) -> str:
            return digest_of(hashes[row], end * (4 if dtype == 0 else 2))

        shared = {
            "reference": digest(num, reference.dtype(name), total),
            "base": digest(num + 1, base.dtype(name), ends[num]),
        }
        broken = {"reference": int(counts[num]), "base": int(counts[num + 1])}
        with lock:
            for k, expert in enumerate(experts):
                own = digest(k, sources.experts[expert].dtype(name), ends[k])
                grams[expert][name] = TensorGram(
                    Gram(*(float(total_sums[i]) for i in (0, 1 + 2 * k, 2 + 2 * k))),
                    {**shared, "expert": own},
                    {r: c for r, c in {**broken, "expert": int(counts[k])}.items() if c},
                )

    each_tensor(list(inputs.reference.tensors), work, threads=threads)
    return grams


def layer_grams(grams: Grams, layers: LayerMap, granularity: str) -> dict[str, Gram]:
    """The sums of every layer unit, in model order (fp64 sums over its tensors, sorted by name)."""
    table: dict[str, Gram] = {}
    for unit in layers.units(granularity):  # type: ignore[arg-type]
        total = Gram(0.0, 0.0, 0.0)
        for name in layers.tensors(unit, granularity):  # type: ignore[arg-type]
            if name in grams:
                total += grams[name].gram
        table[unit] = total
    return table


def scores(
    grams: Grams, layers: LayerMap, granularity: str, *, model: str, inputs: Mapping[str, str]
) -> LayerScores:
    """LATA's similarity of every layer, with everything that it was made of.

    Columns: A, B, C (sums), rho = |t|/|u|, phi_degrees = angle(t, u), rank (1 = most like the
    instruction vector), norm_share = the layer's share of |t|^2 over the whole model.
    """
    table = layer_grams(grams, layers, granularity)
    everything = math.fsum(tensor.gram.B for tensor in grams.values())
    columns: dict[str, dict[str, float]] = {
        key: {unit: getattr(gram, key) for unit, gram in table.items()} for key in ("A", "B", "C")
    }
    columns["rho"] = {
        unit: math.sqrt(gram.B / gram.A) for unit, gram in table.items() if gram.A > 0.0
    }
    columns["phi_degrees"] = {
        unit: math.degrees(math.acos(max(-1.0, min(1.0, g.C / math.sqrt(g.A * g.B)))))
        for unit, g in table.items()
        if g.A > 0.0 and g.B > 0.0
    }
    columns["norm_share"] = {
        unit: gram.B / everything if everything else 0.0 for unit, gram in table.items()
    }
    found = LayerScores(
        method="lata_cosine",
        unit="cosine",
        granularity=granularity,  # type: ignore[arg-type]
        higher_means="more like the instruction vector: less of this layer is taken",
        values={unit: similarity(gram) for unit, gram in table.items()},
        columns=columns,
        spread=None,
        model=model,
        inputs=dict(inputs),
    )
    ranks = {unit: float(place) for unit, place in found.rank().items()}
    return found.model_copy(update={"columns": {**columns, "rank": ranks}})


def lineage_warning(name: str, grams: Grams) -> str | None:
    """A sentence when an expert does not look tuned from the given instruct model.

    An expert tuned from the base instead has t = its own step - u: C near -A and |t| at least |u|.
    """
    total = sum((tensor.gram for tensor in grams.values()), Gram(0.0, 0.0, 0.0))
    if total.A == 0.0 or total.B == 0.0:
        return None
    back, rho = total.C / total.A, math.sqrt(total.B / total.A)
    if back > -0.5 or rho < 0.7:
        return None
    return (
        f"expert `{name}` does not look tuned from the given instruct model: its task vector "
        f"points back along the instruction vector (<t,u>/<u,u> = {back:.2f}, "
        f"|t|/|u| = {rho:.2f}; an expert tuned from the base has about -1 and 1 or more). "
        "Check instruct_model."
    )


def _cache_file(folder: Path, key: str) -> Path:
    name = hashlib.blake2b(f"{SCHEMA}/{key}".encode(), digest_size=16).hexdigest()
    return folder / "gram" / f"{name}.json"


def _digest(rows: Mapping[str, object]) -> str:
    """Tells a cache that was cut, edited or hit by a bad disk from the one that was written."""
    return hashlib.blake2b(json.dumps(rows, sort_keys=True).encode(), digest_size=16).hexdigest()


def _from_cache(folder: Path, key: str) -> dict[str, TensorGram] | None:
    try:
        read = json.loads(_cache_file(folder, key).read_text(encoding="utf-8"))
        whole = read["digest"] == _digest(read["tensors"])
        if read["schema"] != SCHEMA or read["key"] != key or not whole:
            return None
        return {
            name: TensorGram(Gram(*row["sums"]), row["checksums"], row["nonfinite"])
            for name, row in read["tensors"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a lost or broken cache costs one pass, nothing else


def _to_cache(folder: Path, key: str, grams: Grams) -> None:
    file = _cache_file(folder, key)
    rows = {
        name: {
            "sums": [tensor.gram.A, tensor.gram.B, tensor.gram.C],
            "checksums": dict(tensor.checksums),
            "nonfinite": dict(tensor.nonfinite),
        }
        for name, tensor in grams.items()
    }
    sums = [value for row in rows.values() for value in row["sums"]]
    if not all(math.isfinite(value) for value in sums):
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        told = {"schema": SCHEMA, "key": key, "digest": _digest(rows), "tensors": rows}
        write_json_atomic(file, told)
    except OSError:
        return
