"""The rules beside Adam: the papers' updates, and hyper-parameters that are refused."""

import pytest
import torch

import adamesh
from adamesh.errors import ConfigurationError
from tests.reference.rivals import textbook_adadelta, textbook_nadam, textbook_sgd
from tests.tolerances import TEXTBOOK

CASES = {
    "nadam": (
        lambda p: adamesh.NAdam([p], lr=0.1, weight_decay=0.2, momentum_decay=0.05, decoupled_weight_decay=True),
        lambda: textbook_nadam(0.1, 0.9, 0.999, 1e-8, 0.05, 0.2),
        # torch keeps the product of the mu's in float32, whatever the parameter is.
        torch.float32,
    ),
    "sgd": (
        lambda p: adamesh.SGD([p], lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.2),
        lambda: textbook_sgd(0.1, 0.9, 0.3, 0.2, nesterov=False),
        torch.float64,
    ),
    "nesterov": (
        lambda p: adamesh.SGD([p], lr=0.1, momentum=0.9, nesterov=True),
        lambda: textbook_sgd(0.1, 0.9, 0.0, 0.0, nesterov=True),
        torch.float64,
    ),
    "adadelta": (
        lambda p: adamesh.Adadelta([p], weight_decay=0.2),
        lambda: textbook_adadelta(1.0, 0.9, 1e-6, 0.2),
        torch.float64,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_takes_its_papers_steps(name):
    build, textbook, precision = CASES[name]
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    book, expected = textbook(), p.detach().clone()
    optimizer = build(p)
    for t in range(1, 9):
        optimizer.zero_grad()
        ((p - 0.3) ** 2).sum().backward()
        assert p.grad is not None
        expected = book(expected, 2 * (expected - 0.3), t)
        optimizer.step()
        assert float((p.detach() - expected).abs().max()) <= TEXTBOOK[precision]


WRONG = [
    (adamesh.NAdam, {"betas": (1.0, 0.9)}, r"betas\[0\]=1.0 is out of range"),
    (adamesh.NAdam, {"momentum_decay": -1.0}, "momentum_decay=-1.0 is out of range"),
    (adamesh.SGD, {"momentum": -0.5}, "momentum=-0.5 is out of range"),
    (adamesh.SGD, {"nesterov": True}, "needs a momentum above 0"),
    (adamesh.SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "no dampening"),
    (adamesh.Adadelta, {"rho": 1.5}, "rho=1.5 is out of range"),
    (adamesh.Adadelta, {"lr": float("nan")}, "lr=nan is out of range"),
    (adamesh.LBFGS, {"lr": -1.0}, "lr of at least 0"),
    (adamesh.LBFGS, {"max_iter": 0}, "max_iter=0 is out of range"),
    (adamesh.LBFGS, {"line_search_fn": "armijo"}, "there is 'strong_wolfe'"),
    (adamesh.LBFGS, {"plan": adamesh.Plan(max_grad_norm=1.0)}, "max_grad_norm=1.0 with LBFGS"),
]


@pytest.mark.parametrize(("rule", "options", "match"), WRONG)
def test_a_number_that_does_not_fit_the_rule_is_refused(rule, options, match):
    with pytest.raises(ConfigurationError, match=match):
        rule([torch.nn.Parameter(torch.ones(2))], **options)


def test_momentum_cannot_be_switched_on_later():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = adamesh.SGD([p])
    optimizer.param_groups[0]["momentum"] = 0.9
    p.sum().backward()
    with pytest.raises(ConfigurationError, match="momentum_buffer"):
        optimizer.step()
