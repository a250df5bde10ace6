"""Rankings from files alone, no model in memory: the weights' spectrum, and LATA's cosine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamina.core.modules import Linears
from lamina.ila.ways import Found
from lamina.weights.checkpoint import Checkpoint, open_checkpoint
from lamina.weights.linears import linears_of

if TYPE_CHECKING:
    from lamina.core.scores import LayerScores
    from lamina.jobs.rank_prepare import Ranking


def from_files(run: Ranking, way: str) -> list[Found]:
    """The one measurement of `snr` or `cosine`."""
    checkpoint = open_checkpoint(run.source.folder)
    return [(_snr if way == "snr" else _cosine)(run, checkpoint, linears_of(checkpoint))]


def _snr(run: Ranking, checkpoint: Checkpoint, known: Linears) -> Found:
    from lamina.ila.snr import snr

    run.watch.stage("spectra of the weights", len(known.by_id))
    found = snr(checkpoint, advance=run.watch.advance)
    for note in found.notes:
        run.watch.tell(note)
    return Found(found.values, columns={"raw": found.raw}, notes={"told": list(found.notes)})


def _cosine(run: Ranking, checkpoint: Checkpoint, known: Linears) -> Found:
    """LATA's similarity (eq. 6) of each linear module, high: like the instruction vector."""
    from lamina.lata.measure import measure, scores
    from lamina.merge.inputs import open_inputs
    from lamina.merge.recipe import from_dict
    from lamina.merge.sources import Sources
    from lamina.weights import kernels

    recipe = run.recipe
    expert = str(run.source.adapter or run.source.folder)
    asked = from_dict(
        {
            "merge_method": "lata",
            "base_model": recipe.base,
            "instruct_model": recipe.instruct or str(run.source.folder),
            "models": [{"model": expert, "parameters": {"weight": 1.0}}],
            "parameters": {"rule": "linear_drop", "granularity": "module", "others": "keep"},
        },
        source="lamina rank --way cosine",
    )
    inputs = open_inputs(asked, run.place.home)
    if not kernels.all_ready():
        run.watch.tell("compiling the kernels for this machine: some seconds, only this once")
        kernels.compile_all()
    assert inputs.base is not None
    assert inputs.reference is not None
    threads = min(8, os.cpu_count() or 1)
    values = sum(tensor.num_elements for tensor in inputs.target.tensors.values())
    run.watch.stage("cosines with the instruction vector", values)
    grams = measure(inputs, Sources(inputs), threads=threads, progress=run.watch.advance)
    (table,) = grams.values()
    prints = {"base": inputs.base.fingerprint, "instruct": inputs.reference.fingerprint}
    found: LayerScores = scores(table, inputs.layers, "module", model=expert, inputs=prints)
    scored = {one: found.values[one] for one in known.by_id}
    columns = {
        key: {one: column[one] for one in known.by_id if one in column}
        for key, column in found.columns.items()
        if key != "rank"
    }
    return Found(scored, columns=columns)
