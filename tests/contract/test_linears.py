"""Linear modules by headers and in a network are the same: ids, order and sizes, for each family.

What transformers saves has other names or shapes than what it loads in some families: GPT-2 stores
[in, out], mixtures of experts are fused in memory and apart on the disk.
"""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "ila" / "export"))
from families import FAMILIES, network_of

from lamina.engine.planned import linears
from lamina.weights.checkpoint import open_checkpoint
from lamina.weights.linears import linears_of, network_prefix


def test_thirteen_families_were_found():
    assert len(FAMILIES) >= 13, sorted(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_modules_from_headers_as_in_the_network(family, tmp_path):
    network = network_of(family, device="cpu")
    network.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    saved, loaded = linears_of(checkpoint), linears(network)
    assert list(saved.by_id) == list(loaded.by_id)
    assert (network_prefix(checkpoint), saved.num_blocks) == (loaded.prefix, loaded.num_blocks)
    for one, module in loaded.by_id.items():
        sizes = (saved.by_id[one].num_inputs, saved.by_id[one].num_outputs)
        assert sizes == (module.num_inputs, module.num_outputs), one
        assert saved.by_id[one].role == module.role, one
