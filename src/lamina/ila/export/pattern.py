"""One regular expression for a set of module names: exact, anchored by who uses it, and short.

Blocks with the same modules stand together: `model\\.layers\\.(?:1|1[0-3])\\.mlp\\.up_proj`. Every
dot is escaped and every name is whole, so block 1 says nothing about blocks 10 to 19.
"""

import re
from collections.abc import Iterable, Mapping


def pattern_of(names: Iterable[str], prefix: str) -> str:
    """A pattern that `re.fullmatch`es exactly these names.

    Args:
        names: full names, `model.layers.12.mlp.up_proj` or `lm_head`, at least one.
        prefix: path of the list of blocks, `model.layers`; what stands elsewhere is spelt out.
    """
    blocks: dict[str, dict[int, None]] = {}
    loose = []
    for name in dict.fromkeys(names):
        number, _, module = name.removeprefix(f"{prefix}.").partition(".")
        if name.startswith(f"{prefix}.") and number.isdigit() and module:
            blocks.setdefault(module, {})[int(number)] = None
        else:
            loose.append(re.escape(name))
    parts = [f"{re.escape(prefix)}\\.{_inside(blocks)}"] if blocks else []
    parts += loose
    assert parts, "a pattern of no name"
    return _either(parts)


def _inside(blocks: Mapping[str, Iterable[int]]) -> str:
    """`(?:BLOCKS\\.MODULES|...)` in the shorter of two groupings: by module, or by block."""
    by_module: dict[tuple[int, ...], list[str]] = {}
    of_block: dict[int, list[str]] = {}
    for module, numbers in blocks.items():
        by_module.setdefault(tuple(sorted(numbers)), []).append(module)
        for number in numbers:
            of_block.setdefault(number, []).append(module)
    by_block: dict[tuple[str, ...], list[int]] = {}
    for number in sorted(of_block):
        by_block.setdefault(tuple(of_block[number]), []).append(number)
    found = [
        [f"{_numbers(numbers)}\\.{_modules(modules)}" for numbers, modules in by_module.items()],
        [f"{_numbers(numbers)}\\.{_modules(modules)}" for modules, numbers in by_block.items()],
    ]
    return min(map(_either, found), key=len)


def _numbers(numbers: Iterable[int]) -> str:
    """`(?:3|1[0-9]|2[05])` for 3, 10 to 19, 20, 25."""
    tens: dict[str, list[int]] = {}
    for number in numbers:
        tens.setdefault(str(number // 10) if number > 9 else "", []).append(number % 10)
    return _either([f"{front}{_digits(last)}" for front, last in tens.items()])


def _digits(digits: list[int]) -> str:
    """`4`, `[05]` or `[0-57]`: runs of three and more are ranges."""
    if len(digits) == 1:
        return str(digits[0])
    runs: list[list[int]] = []
    for digit in sorted(digits):
        if runs and digit == runs[-1][-1] + 1:
            runs[-1].append(digit)
        else:
            runs.append([digit])
    return f"[{''.join(f'{r[0]}-{r[-1]}' if r[2:] else ''.join(map(str, r)) for r in runs)}]"


def _modules(modules: Iterable[str]) -> str:
    """`(?:mlp\\.up_proj|self_attn\\.(?:q_proj|v_proj))`: what has one parent stands together."""
    children: dict[str, list[str]] = {}
    for module in modules:
        parent, dot, child = module.rpartition(".")
        children.setdefault(parent + dot, []).append(re.escape(child))
    return _either([f"{re.escape(parent)}{_either(own)}" for parent, own in children.items()])


def _either(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"
