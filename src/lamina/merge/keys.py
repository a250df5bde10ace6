"""Which keys a merge file may hold, and what is told about the others.

Tables first: lamina's keys, the parameters each method takes, and what is mergekit's only. mergekit
itself ignores unknown keys; here every one is told, with the nearest that we know.
"""

from collections.abc import Mapping
from typing import cast, get_args

from lamina.core.errors import did_you_mean, nearest
from lamina.merge.nouns import Dtype, Method, Rule, Shape
from lamina.merge.section import Section

METHODS: tuple[Method, ...] = get_args(Method)
RULES: tuple[Rule, ...] = get_args(Rule)
SHAPES: tuple[Shape, ...] = get_args(Shape)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

LATA_KEYS = ("instruct_model", "target_model", "controls")
KEYS = (
    *("merge_method", "base_model", "models", "parameters", "dtype", "out_dtype"),
    *("vocabulary", "max_shard_size", "sweep", "heldout"),
    *LATA_KEYS,
)
_MIXING = ("weight", "normalize", "lambda")
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "linear": ("weight", "normalize"),
    "task_arithmetic": _MIXING,
    "ties": (*_MIXING, "density", "rescale", "scope"),
    "dare_linear": (*_MIXING, "density", "rescale", "seed"),
    "dare_ties": (*_MIXING, "density", "rescale", "seed"),
    "slerp": ("t",),
    "lata": (
        *("rule", "threshold", "granularity", "others"),
        *("scores", "expert", "shape", "share", "check_base"),
        *_MIXING,
        *("method", "density", "rescale", "scope", "seed"),
    ),
}
ALL_PARAMETERS = frozenset().union(*PARAMETERS.values())
PER_MODEL = ("weight", "density")
PER_MODEL_TEXTS = ("scores", "expert")
"""A model's own, too, but no numbers: the file of its scores, and whose of those in it."""
OWN = (*PER_MODEL, *PER_MODEL_TEXTS)
# mergekit takes these, without any effect on the result.
IDLE: Mapping[str, tuple[str, ...]] = {
    "task_arithmetic": ("int8_mask", "density", "rescale"),
    "ties": ("int8_mask",),
    "dare_linear": ("int8_mask",),
    "dare_ties": ("int8_mask",),
}

MERGEKIT_KEYS: Mapping[str, str] = {
    "slices": "list whole models under `models:`; ranges of layers cannot be stacked",
    "modules": "list whole models under `models:`",
    "tokenizer_source": "remove it: the tokenizer files of the edited model are carried over",
    "tokenizer": "remove it: the tokenizer files of the edited model are carried over",
    "chat_template": "remove it: the template of the edited model is carried over",
    "name": "remove it: the command line names the output",
}
MERGEKIT_METHODS = (
    *("breadcrumbs", "breadcrumbs_ties", "della", "della_linear", "model_stock", "multislerp"),
    *("nuslerp", "karcher", "sce", "nearswap", "arcee_fusion", "ram", "ramplus_tl", "passthrough"),
)
MERGEKIT_PARAMETERS = frozenset(
    """gamma epsilon select_topk filter_wise nuslerp_flatten nuslerp_row_wise max_iter tol scale eps
    r alpha""".split()
)
THEIRS = "is mergekit's and not supported here"


def read_method(top: Section) -> Method | None:
    """The merge method; of an unknown one the nearest, so that the rest is checked too."""
    raw = top.given.get("merge_method")
    if raw in METHODS:
        return cast(Method, raw)
    if raw is None:
        top.wrong("merge_method", f"is missing; choose one of {', '.join(METHODS)}")
        return None
    if raw in MERGEKIT_METHODS:
        top.wrong("merge_method", f"`{raw}` {THEIRS}; choose one of {', '.join(METHODS)}")
        return None
    top.wrong("merge_method", f"unknown method `{raw}`; {did_you_mean(str(raw), METHODS)}")
    return cast(Method | None, nearest(str(raw), METHODS))


def check_keys(top: Section, parameters: Section, method: Method | None) -> None:
    """Every key at the top level and under `parameters:` is known, and this method takes it."""
    for key in top.given:
        if key in MERGEKIT_KEYS:
            top.wrong(key, f"{THEIRS}; {MERGEKIT_KEYS[key]}")
        elif key in ALL_PARAMETERS:
            top.wrong(key, "belongs under `parameters:`")
        elif key not in KEYS:
            top.wrong(key, f"unknown key; {did_you_mean(key, KEYS)}")
        elif key in LATA_KEYS and method not in ("lata", None):
            top.wrong(key, f"belongs to `merge_method: lata`; `{method}` does not take it")
    check_parameters(method, parameters, of_a_model=False)


def check_parameters(method: Method | None, section: Section, *, of_a_model: bool) -> None:
    """The keys of one `parameters:`; those of a model hold only what can be a model's own."""
    takes = PARAMETERS[method] if method else (*ALL_PARAMETERS,)
    idle = IDLE.get(method, ()) if method else ("int8_mask",)
    known = [key for key in takes if key in OWN] if of_a_model else takes
    for key in section.given:
        if key in known:
            continue
        if key in idle and (key in PER_MODEL or not of_a_model):
            section.problems.warn(
                section.at + key, f"has no effect with `{method}`, nor has it in mergekit"
            )
        elif key in takes or key in idle:
            section.wrong(
                key, "is not a model's own; it belongs in the `parameters:` at the top level"
            )
        elif key in ALL_PARAMETERS or key == "int8_mask":
            owners = [m for m in METHODS if key in PARAMETERS[m]] or ["ties"]
            section.wrong(key, f"belongs to {', '.join(owners)}; `{method}` does not take it")
        elif key in MERGEKIT_PARAMETERS:
            section.wrong(key, f"{THEIRS}; known: {', '.join(sorted(known)) or 'none'}")
        elif key in KEYS:
            section.wrong(key, "belongs at the top level of the file")
        else:
            section.wrong(key, f"unknown key; {did_you_mean(key, known)}")
