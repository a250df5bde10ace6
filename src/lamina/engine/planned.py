"""A plan on a model in memory: the linear modules it has, and the planned ones made trainable.

`lora`: an adapter on exactly the planned modules, and modules trained whole beside it. `full`: the
planned modules' own tensors, weight and bias. What is trained is float32, all else is frozen in
`train.dtype`. What PEFT made of the names is compared with the plan (`check_injected`): it shortens
20 names or more to their ends, and may rewrite names in mixtures of experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lamina.core.errors import LayerError, RecipeError, did_you_mean
from lamina.core.layers import LayerMap
from lamina.core.modules import Linear, Linears
from lamina.core.plan import LayerPlan
from lamina.engine.heads import core_model, is_peft
from lamina.engine.lora import add_lora
from lamina.engine.recipe import TrainSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEADS = ("lm_head", "embed_out")
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def linears(network: nn.Module) -> Linears:
    """The linear modules of a model's blocks, PEFT's wrappers looked through.

    Attention and feed-forward modules alone: no routers, embeddings or heads. Paths are names in
    the bare network; ids and their order are those of `weights.linears.linears_of`.

    Raises:
        LayerError: its names show no list of blocks.
    """
    from transformers.pytorch_utils import Conv1D

    sizes: dict[str, tuple[int, int]] = {}
    for name, module in _bare_modules(network):
        plain: Any = module
        if isinstance(plain, nn.Linear):
            sizes[name] = (plain.in_features, plain.out_features)
        elif isinstance(plain, Conv1D):
            sizes[name] = (plain.nx, plain.nf)
    layers = LayerMap.from_names(f"{name}.weight" for name in sizes)
    found = {}
    for unit in layers.units("module"):
        tensor = layers.tensors(unit, "module")[0]
        layer, path = layers.of(tensor), tensor.removesuffix(".weight")
        if layer.block is not None and layer.role in ("attention", "mlp"):
            found[unit] = Linear(unit, path, layer.block, layer.role, *sizes[path])
    return Linears(layers.prefix, layers.num_blocks, found)


def apply_plan(network: PreTrainedModel, plan: LayerPlan, train: TrainSection) -> Any:
    """The network with what the plan says made trainable, and nothing else.

    Args:
        network: without adapters; in `train.dtype`, or in float32 where that would lose something
            of a module that is trained whole.

    Raises:
        LayerError: modules that the model has not, that are not linear, or are quantised; a plan
            that leaves nothing to tune.
        RecipeError: a module trained whole whose weights another one shares; no module for an
            adapter.
    """
    chosen = _chosen_paths(network, plan)
    whole = _whole_paths(network, plan.full)
    if not chosen and not whole:
        raise LayerError(
            f"the plan leaves nothing to tune: of {len(plan.coefficients)} modules none has a "
            "coefficient other than 0, and none is unfrozen. Choose a larger share."
        )
    dtype = getattr(torch, train.dtype)
    if train.method == "full":
        _train_whole(network, [*chosen.values(), *whole.values()], dtype)
        return network
    if not chosen:
        raise RecipeError(
            f"the plan trains {len(whole)} modules whole and gives none an adapter, but "
            "train.method is `lora`. Write method: full, or choose modules for the adapter."
        )
    _refuse_shared(network, whole)
    ranks = {chosen[unit]: rank for unit, rank in plan.ranks.items() if unit in chosen}
    model = add_lora(
        network,
        train,
        sorted(chosen.values()),
        ranks={path: rank for path, rank in ranks.items() if rank != train.rank},
        whole=list(whole.values()),
    )
    model.peft_config["default"].target_modules = sorted(chosen.values())  # not their ends
    if whole:
        _hold(model, dtype)
    check_injected(model, plan, rank=train.rank)
    return model


def check_injected(model: Any, plan: LayerPlan, *, rank: int) -> None:
    """That adapters, modules trained whole and ranks are those of the plan, and no others.

    Args:
        model: a PEFT model with the one adapter `default`.
        rank: of the modules that have none in the plan.

    Raises:
        RecipeError: they are not; an error in lamina, or in this version of PEFT.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    core = core_model(model)
    chosen = _chosen_paths(model, plan)
    asked = {path: str(plan.ranks.get(unit, rank)) for unit, path in chosen.items()}
    asked |= dict.fromkeys(_whole_paths(model, plan.full).values(), "whole")
    found = {}
    for name, module in core.named_modules():
        if isinstance(module, LoraLayer):
            found[name] = str(module.r.get("default"))
        elif isinstance(module, ModulesToSaveWrapper):
            found[name] = "whole"
    inside = tuple(f"{name}." for name in found)
    stray = [
        name
        for name, parameter in core.named_parameters()
        if parameter.requires_grad and not name.startswith(inside)
    ]
    if found != asked or stray:
        wrong = sorted(
            path for path in found.keys() | asked if found.get(path) != asked.get(path)
        ) + sorted(stray)
        told = [f"{p}: {asked.get(p, 'frozen')} asked, {found.get(p, 'frozen')} is" for p in wrong]
        lost = [path for path in asked if path not in found]
        if lost and model.peft_config["default"].target_parameters:
            raise RecipeError(
                f"in this mixture of experts PEFT takes {', '.join(lost[:6])} for the experts of "
                f"all blocks, so that {len(lost)} planned modules can have no adapter of their own."
                " Choose modules of attention, or write method: full."
            )
        raise RecipeError(
            f"PEFT made {len(wrong)} modules trainable otherwise than planned: "
            f"{'; '.join(told[:6])}. Another version of peft may do; please report it."
        )


def _bare_modules(network: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """The modules of a network under the names they have without PEFT, its own left out."""
    core = core_model(network)
    wrappers = _wrappers() if is_peft(network) else ((), ())
    layer_kinds, saved_kinds = wrappers
    inside: tuple[str, ...] = ()
    for name, module in core.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, layer_kinds):
            inside += (f"{name}.",)
            yield name, module.get_base_layer()
        elif isinstance(module, saved_kinds):
            inside += (f"{name}.",)
            yield name, module.original_module
        else:
            yield name, module


def _wrappers() -> tuple[Any, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    return (BaseTunerLayer,), (ModulesToSaveWrapper,)


def _chosen_paths(network: nn.Module, plan: LayerPlan) -> dict[str, str]:
    """Id -> path of the planned modules, in the plan's order.

    Raises:
        LayerError: see `apply_plan`; all of them at once.
    """
    assert plan.granularity == "module", f"a plan by {plan.granularity} was not spread to modules"
    known = linears(network).by_id
    modules = dict(_bare_modules(network))
    others = _paths(modules)
    chosen = [unit for unit in plan.chosen if unit not in plan.full]
    problems = []
    for unit in chosen:
        if unit not in known:
            problems.append(
                f"{unit}: {type(modules[others[unit]]).__name__}, which is not linear; it can be "
                "trained whole (`unfreeze`)"
                if unit in others
                else f"{unit}: {did_you_mean(unit, known)}"
            )
        elif (dtype := modules[known[unit].path].weight.dtype) not in FLOATS:
            problems.append(f"{unit}: its weights are {dtype}, quantised")
    if problems:
        raise LayerError(
            f"{len(problems)} of {len(chosen)} planned modules cannot be tuned in this model: "
            f"{'; '.join(problems[:8])}{' ...' if problems[8:] else ''}. Make the plan from scores "
            "of this model."
        )
    return {unit: known[unit].path for unit in chosen}


def _whole_paths(network: nn.Module, units: Iterable[str]) -> dict[str, str]:
    """Id -> path of modules that are trained whole.

    Raises:
        RecipeError: modules that the model has not, or whose weights are quantised; all at once.
    """
    modules = dict(_bare_modules(network))
    paths = _paths(modules)
    problems = []
    for unit in units:
        if unit not in paths:
            problems.append(f"`{unit}`: {did_you_mean(unit, paths)}")
        elif odd := {p.dtype for p in modules[paths[unit]].parameters()} - set(FLOATS):
            problems.append(f"`{unit}`: its weights are {', '.join(map(str, odd))}, quantised")
    if problems:
        raise RecipeError(
            f"unfreeze names {len(problems)} module(s) that cannot be trained whole here: "
            f"{'; '.join(problems)}"
        )
    return {unit: paths[unit] for unit in units}


def _paths(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Id -> path of every module that holds weights itself; a head by any of its names.

    GPT-NeoX's is `embed_out` in files and `lm_head` in memory (transformers 5).
    """
    layers = LayerMap.from_names(
        f"{path}.{name}"
        for path, module in modules.items()
        for name, _ in module.named_parameters(recurse=False)
    )
    tensors = ((layer.id, tensor.rpartition(".")[0]) for tensor, layer in layers.layers.items())
    found = {unit: path for unit, path in tensors if path in modules and path.endswith(unit)}
    heads = [found[name] for name in HEADS if name in found]
    return dict.fromkeys(HEADS, heads[0]) | found if heads else found


def _train_whole(network: nn.Module, paths: Iterable[str], dtype: torch.dtype) -> None:
    """The modules' own tensors in float32 and trained, all others frozen in a dtype."""
    network.requires_grad_(False)
    for path in paths:
        network.get_submodule(path).requires_grad_(True)
    _hold(network, dtype)


def _hold(network: nn.Module, dtype: torch.dtype) -> None:
    """What is trained in float32, what is frozen in a dtype."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)


def _refuse_shared(network: nn.Module, whole: Mapping[str, str]) -> None:
    """A copy of a tied tensor, which an adapter holds, would untie it.

    Raises:
        RecipeError: names every such module.
    """
    users: dict[int, set[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        users.setdefault(id(parameter), set()).add(name)
    shared = {
        unit: sorted(others)
        for unit, path in whole.items()
        for parameter in network.get_submodule(path).parameters()
        if (others := {n for n in users[id(parameter)] if not n.startswith(f"{path}.")})
    }
    if shared:
        told = "; ".join(f"`{unit}` with {', '.join(others)}" for unit, others in shared.items())
        raise RecipeError(
            f"unfreeze names modules that share their weights with others ({told}): an adapter "
            "would hold a copy of one and leave the other as it was. Leave them out, or write "
            "method: full."
        )
