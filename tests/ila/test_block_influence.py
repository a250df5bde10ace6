"""How much a block turns the hidden state, against the hidden states that the model gives."""

import sys
from pathlib import Path

import pytest
import torch

from lamina.core.errors import DataError
from lamina.engine.prefix import given
from lamina.ila.block_influence import block_influence, cosine
from lamina.ila.forwards import real_tokens

sys.path.append(str(Path(__file__).parent))

from scored_pico import adapted_pico, batches, pico


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "bloom"])
def test_it_is_one_less_the_mean_cosine_over_the_tokens(kind: str) -> None:
    """By the hidden states that transformers gives; its last one is after the final norm."""
    model = pico(kind)
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for batch in batches():
        final: list[torch.Tensor] = []
        last = model.get_submodule({"llama": "model.layers", "gpt2": "transformer.h",
                                    "gpt_neox": "gpt_neox.layers",
                                    "bloom": "transformer.h"}[kind])[-1]  # fmt: skip
        handle = last.register_forward_hook(
            lambda m, i, out, final=final: final.append(out[0] if isinstance(out, tuple) else out)
        )
        with torch.no_grad():
            outputs = model(**given(model, batch), output_hidden_states=True)
        states = [*outputs.hidden_states[:3], final[0]]
        handle.remove()
        real = real_tokens(batch["position_ids"])
        count += int(real.sum())
        for block in range(3):
            pair = (states[block][real].double(), states[block + 1][real].double())
            sums[block] += torch.nn.functional.cosine_similarity(*pair, dim=-1).sum()
    found = block_influence(model, batches())
    assert list(found) == ["0", "1", "2"]
    assert list(found.values()) == pytest.approx((1 - sums / count).tolist(), abs=1e-9)


def test_padding_does_not_count() -> None:
    model = pico()
    one = batches()[0]
    wide = {
        name: torch.nn.functional.pad(value, (0, 8), value=0 if name == "position_ids" else 1)
        if name in ("input_ids", "position_ids")
        else value
        for name, value in one.items()
    }
    assert real_tokens(one["position_ids"]).sum(-1).tolist() == [12, 9]
    assert real_tokens(wide["position_ids"]).sum(-1).tolist() == [12, 9]
    assert block_influence(model, [wide]) == pytest.approx(block_influence(model, [one]), abs=1e-6)


def test_a_block_that_hands_on_its_input_has_none() -> None:
    model = pico()
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        torch.nn.init.zeros_(model.model.layers[1].get_submodule(name).weight)
    found = block_influence(model, batches())
    assert found["1"] == pytest.approx(0.0, abs=1e-12)
    assert min(found["0"], found["2"]) > 0.01


def test_an_adapter_counts_and_the_modes_are_kept() -> None:
    model = adapted_pico().train()
    seen: list[int] = []
    with_delta = block_influence(model, batches(), advance=seen.append)
    assert sum(seen) == 3
    assert model.training
    with model.disable_adapter():
        assert block_influence(model, batches()) != with_delta


def test_two_zero_vectors_point_the_same_way() -> None:
    zero, one = torch.zeros(2), torch.tensor([3.0, 4.0])
    pairs = torch.stack([zero, zero, one]), torch.stack([zero, one, -one])
    assert cosine(*pairs).tolist() == [1.0, 0.0, -1.0]


def test_hidden_states_that_are_no_numbers_are_refused() -> None:
    model = pico()
    torch.nn.init.constant_(model.model.layers[1].mlp.up_proj.weight, float("nan"))
    with pytest.raises(DataError, match="hidden states are not finite"):
        block_influence(model, batches())
