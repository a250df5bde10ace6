import math

import pytest
import torch

from lamina.core.errors import CheckpointError, RecipeError
from lamina.versatune.order import (
    Order,
    Pair,
    Parameters,
    best_sequence,
    commutator,
    dot,
    hessian_vector,
    order,
)


def quadratic(seed, size=6):
    """A loss 1/2 (x - c)' A (x - c) with A symmetric, positive: (A, c)."""
    draw = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=draw, dtype=torch.float64)
    centre = torch.randn(size, generator=draw, dtype=torch.float64)
    return root @ root.mT + torch.eye(size, dtype=torch.float64), centre


LAW, CODE, ART = quadratic(1), quadratic(2), quadratic(3)
DOMAINS = {"law": LAW, "code": CODE, "art": ART}
THETA = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradient(loss, theta):
    curvature, centre = loss
    return curvature @ (theta - centre)


def value(loss, theta):
    curvature, centre = loss
    return float((theta - centre) @ curvature @ (theta - centre) / 2)


def step(theta, loss, rate):
    return theta - rate * gradient(loss, theta)


def known(losses, target, theta=THETA):
    """B_01 with the Hessians known: <H_1 g_T, g_0> - <H_0 g_T, g_1>."""
    aim = gradient(target, theta)
    (first, _), (second, _) = losses
    g = [gradient(loss, theta) for loss in losses]
    return float((second @ aim) @ g[0] - (first @ aim) @ g[1])


# ---- the formula ---------------------------------------------------------------------------------


def test_two_steps_of_descent_differ_by_the_commutator_exactly_where_losses_are_quadratic():
    rate = 0.01
    apart = step(step(THETA, LAW, rate), CODE, rate) - step(step(THETA, CODE, rate), LAW, rate)
    derived = CODE[0] @ gradient(LAW, THETA) - LAW[0] @ gradient(CODE, THETA)
    assert torch.allclose(apart, rate**2 * derived, rtol=1e-10, atol=0)


def test_b_below_0_means_that_the_first_should_come_first():
    """The loss of the target really is lower after law, then code, by rate^2 B to third order."""
    for target in (LAW, CODE, ART, quadratic(7), quadratic(9)):
        b = known((LAW, CODE), target)
        gaps = []
        for rate in (1e-4, 5e-5):
            law_first = step(step(THETA, LAW, rate), CODE, rate)
            code_first = step(step(THETA, CODE, rate), LAW, rate)
            gaps.append((value(target, law_first) - value(target, code_first)) / rate**2)
        assert gaps[1] == pytest.approx(b, rel=0.05)
        assert abs(gaps[1] - b) == pytest.approx(abs(gaps[0] - b) / 2, rel=0.1)


def test_the_hessian_product_is_exact_where_the_loss_is_quadratic():
    aim = gradient(ART, THETA)
    found = hessian_vector(lambda shift: gradient(LAW, THETA + shift), aim, radius=0.3)
    assert torch.allclose(found, LAW[0] @ aim, rtol=1e-9)


def test_the_error_of_the_hessian_product_falls_with_the_square_of_the_radius():
    def quartic(shift):  # the loss sum x^4 / 4, whose Hessian is diag(3 x^2)
        return (THETA + shift) ** 3

    aim = gradient(ART, THETA)
    exact = 3 * THETA**2 * aim
    errors = [
        float((hessian_vector(quartic, aim, radius=radius) - exact).norm()) for radius in (0.2, 0.1)
    ]
    assert errors[0] == pytest.approx(4 * errors[1], rel=1e-6)


def test_a_target_without_a_gradient_has_no_curvature_to_follow():
    zero = torch.zeros(6)
    assert hessian_vector(lambda shift: 1 / shift, zero, radius=0.1).equal(zero)


def test_the_commutator_is_antisymmetric():
    products = {("a", "b"): 2.0, ("b", "a"): 5.0}
    assert commutator(products, "a", "b") == 3.0
    assert commutator(products, "b", "a") == -3.0


def test_products_are_summed_over_slices_in_float64():
    big = torch.full((2**22 + 3,), 1e-4)
    assert dot(big, big) == pytest.approx((2**22 + 3) * float(big[0].double() ** 2), rel=1e-12)


# ---- the sequence --------------------------------------------------------------------------------


def test_the_best_sequence_has_the_lowest_sum_over_pairs():
    # c before b before a, by every pair.
    assert best_sequence("abc", {("a", "b"): 1.0, ("a", "c"): 2.0, ("b", "c"): 0.5}) == tuple("cba")


def test_a_circle_is_cut_where_it_is_weakest():
    # a before b (-3), b before c (-2), c before a (1 the other way): a, b, c loses 1.
    assert best_sequence("abc", {("a", "b"): -3.0, ("b", "c"): -2.0, ("a", "c"): 1.0}) == tuple(
        "abc"
    )


def test_without_any_difference_the_recipe_keeps_its_order():
    nothing = {("z", "b"): 0.0, ("z", "a"): 0.0, ("b", "a"): 0.0}
    assert best_sequence("zba", nothing) == tuple("zba")


def test_many_domains_are_sorted_by_their_sums():
    names = [f"d{number:02}" for number in range(14)]
    later_first = {(i, j): 1.0 for n, i in enumerate(names) for j in names[n + 1 :]}
    assert best_sequence(names, later_first) == tuple(reversed(names))


# ---- over repeats --------------------------------------------------------------------------------


def noisy(spread, seed=0):
    """Gradients of LAW, CODE and ART with batches: each shifts the centre by noise."""

    def centre_noise(kind, name, batch):
        key = hash((kind, list(DOMAINS).index(name), batch, seed)) % 2**31
        draw = torch.Generator().manual_seed(key)
        return spread * torch.randn(6, generator=draw, dtype=torch.float64)

    def training(name, batch, *, shift):
        curvature, centre = DOMAINS[name]
        at = THETA if shift is None else THETA + shift
        return curvature @ (at - centre - centre_noise(1, name, batch))

    def heldout(name, batch):
        curvature, centre = DOMAINS[name]
        return curvature @ (THETA - centre - centre_noise(2, name, batch))

    return training, heldout


def test_without_noise_the_commutator_is_found_exactly():
    training, heldout = noisy(0.0)
    found = order(training, heldout, domains=tuple(DOMAINS), target="art", radius=1e-2, repeats=2)
    pair = found.pairs[0]
    assert (pair.i, pair.j) == ("law", "code")
    assert pair.value == pytest.approx(known((LAW, CODE), ART), rel=1e-8)
    assert found.curvature_error < 1e-8
    assert pair.first == ("law" if pair.value < 0 else "code")


def test_the_target_may_be_one_of_the_domains_only():
    with pytest.raises(RecipeError, match="target `atr` is not a domain; did you mean `art`"):
        order(*noisy(0.0), domains=("law", "art"), target="atr", radius=1e-2)


def test_one_domain_has_no_order_and_one_repeat_no_spread():
    with pytest.raises(RecipeError, match=r"two domains or more, this has 1; 1 repeats have no"):
        order(*noisy(0.0), domains=("law",), radius=1e-2, repeats=1)


def test_without_a_target_the_mean_of_all_losses_counts():
    training, heldout = noisy(0.0)
    found = order(training, heldout, domains=("law", "code"), radius=1e-2, repeats=2)
    halves = [known((LAW, CODE), target) / 2 for target in (LAW, CODE)]
    assert found.pairs[0].value == pytest.approx(sum(halves), rel=1e-8)


def test_the_mean_over_batches_is_unbiased_and_its_error_honest():
    """Over 60 runs the known number lies within two standard errors about as often as it should."""
    true = known((LAW, CODE), ART)
    z = []
    for seed in range(60):
        found = order(
            *noisy(0.3, seed),
            domains=("law", "code", "art"),
            target="art",
            radius=1e-2,
            repeats=12,
        )
        pair = found.pairs[0]
        z.append((pair.value - true) / pair.se)
    assert abs(math.fsum(z) / 60) < 3 / math.sqrt(60) * 1.2
    assert 0.85 <= sum(abs(score) < 2.2 for score in z) / 60 <= 1.0


def test_noise_alone_names_no_first():
    assert Pair("a", "b", -1.0, 0.5, 8).first is None  # z = -2, t of 7 degrees is 2.36
    assert Pair("a", "b", -1.0, 0.4, 8).first == "a"
    assert Pair("a", "b", 1.0, 0.4, 8).first == "b"
    assert Pair("a", "b", -1.0, 0.1, 2).first is None  # one degree of freedom: 12.7
    assert Pair("a", "b", 0.0, 0.0, 8).first is None
    assert Pair("a", "b", -1.0, 0.0, 8).z == -math.inf


def test_what_is_written_is_plain():
    found = Order(("a", "b"), None, (Pair("a", "b", -1.0, 0.25, 8),), ("a", "b"), 8, 0.1, 0.01)
    assert found.to_json() == {
        "schema": "lamina.order/1",
        "domains": ["a", "b"],
        "target": None,
        "unit": "nats per squared learning rate",
        "pairs": [{"domains": ["a", "b"], "value": -1.0, "se": 0.25, "z": -4.0, "first": "a"}],
        "sequence": ["a", "b"],
        "repeats": 8,
        "radius": 0.1,
        "curvature_error": 0.01,
    }


# ---- on a network --------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    model[0].bias.requires_grad_(False)
    return model


def rows(seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, generator=draw), torch.randint(0, 2, (8,), generator=draw)


def loss_of(model, seed):
    inputs, classes = rows(seed)
    return lambda: torch.nn.functional.cross_entropy(model(inputs), classes)


def test_the_flat_gradient_is_that_of_backward():
    model = network()
    flat = Parameters(model).gradient(loss_of(model, 1))
    loss_of(model, 1)().backward()
    grads = [p.grad.reshape(-1) for p in model.parameters() if p.requires_grad]
    assert flat.equal(torch.cat(grads))
    assert len(flat) == 15 + 10 + 2


def test_a_displacement_is_taken_back_to_the_bit_even_after_an_error():
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    parameters = Parameters(model)
    shift = torch.full((27,), 1e-3)
    moved = parameters.gradient(loss_of(model, 1), shift)
    assert not moved.equal(parameters.gradient(loss_of(model, 1)))

    def breaks():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        parameters.gradient(breaks, shift)
    assert all(p.equal(old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_parameter_that_a_loss_does_not_see_has_a_gradient_of_0():
    model = network()
    flat = Parameters(model).gradient(lambda: model[2](torch.ones(5)).sum())
    assert flat[:15].equal(torch.zeros(15))
    assert flat[15:].abs().min() > 0


def test_two_steps_on_a_network_differ_by_what_the_diagnostic_says():
    """Not quadratic: the remainder falls with the rate."""
    model = network().double()
    parameters = Parameters(model)
    begin = [p.detach().clone() for p in parameters.tensors]

    def descend(seeds, rate):
        for seed in seeds:
            flat = parameters.gradient(loss_of64(seed))
            with torch.no_grad():
                sizes = [p.numel() for p in parameters.tensors]
                for p, part in zip(parameters.tensors, flat.split(sizes), strict=True):
                    p.sub_(rate * part.reshape(p.shape))
        end = torch.cat([p.detach().reshape(-1) for p in parameters.tensors])
        with torch.no_grad():
            for p, old in zip(parameters.tensors, begin, strict=True):
                p.copy_(old)
        return end

    def loss_of64(seed):
        inputs, classes = rows(seed)
        return lambda: torch.nn.functional.cross_entropy(model(inputs.double()), classes)

    def training(name, batch, *, shift):
        return parameters.gradient(loss_of64({"a": 1, "b": 2}[name]), shift)

    aim = parameters.gradient(loss_of64(3))
    found = order(training, lambda name, batch: aim, domains=("a", "b"), radius=1e-4, repeats=2)
    errors = []
    for rate in (0.1, 0.05):
        apart = dot(aim, descend((1, 2), rate) - descend((2, 1), rate)) / rate**2
        errors.append(abs(apart - found.pairs[0].value))
    assert abs(found.pairs[0].value) > 1e-3
    assert errors[1] < 1e-3 * abs(found.pairs[0].value)
    assert errors[1] < 0.6 * errors[0]


def test_coarse_parameters_are_refused():
    with pytest.raises(CheckpointError, match=r"4 of 4 trainable tensors are not float32 \(0.weig"):
        Parameters(network().requires_grad_(True).bfloat16())
    with pytest.raises(CheckpointError, match="no trainable parameter"):
        Parameters(network().requires_grad_(False))


def test_the_length_of_the_parameters():
    model = network()
    squares = sum(
        float(p.detach().double().square().sum()) for p in model.parameters() if p.requires_grad
    )
    assert Parameters(model).norm == pytest.approx(math.sqrt(squares))
