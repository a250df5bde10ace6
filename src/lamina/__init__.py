"""lamina: measure each layer of a language model, merge or forget by it, and see what that did.

Public names are loaded when they are first used: importing lamina costs milliseconds, no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "LayerMap": "lamina.core.layers",
    "LayerScores": "lamina.core.scores",
    "LayerPlan": "lamina.core.plan",
    "LaminaError": "lamina.core.errors",
    "Checkpoint": "lamina.weights.checkpoint",
    "open_checkpoint": "lamina.weights.checkpoint",
    "open_adapter": "lamina.weights.adapter",
    "load_recipe": "lamina.merge.recipe",
    "run_merge": "lamina.jobs",
    "run_eval": "lamina.evaluate.run",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lamina' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
