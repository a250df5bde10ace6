from lamina.core import errors
from lamina.core.errors import LaminaError, did_you_mean, nearest


def test_every_error_is_the_users_to_mend():
    kinds = {
        kind.__name__ for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, LaminaError)
    }  # fmt: skip
    assert kinds == {"LaminaError", "RecipeError", "CheckpointError", "LayerError", "DataError",
                     "OutputError"}  # fmt: skip


def test_nearest():
    assert nearest("weigth", ["weight", "density"]) == "weight"
    assert nearest("TIES", ["ties", "dare"]) == "ties"
    assert nearest("zzz", ["weight"]) is None
    assert nearest("x", []) is None


def test_did_you_mean_lists_when_nothing_is_near():
    assert did_you_mean("weigth", ["weight"]) == "did you mean `weight`?"
    assert did_you_mean("zzz", ["b", "a"]) == "known: b, a"
    assert did_you_mean("zzz", []) == "none is known"
    assert did_you_mean("zzz", [f"n{i}" for i in range(30)]).endswith("n23 and 6 more")
