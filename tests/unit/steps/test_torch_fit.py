"""The training loop: the same bits as PyTorch's own optimizers give, without the import of PyTorch's compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from modelyard.steps.torch_fit import Part, Recipe, fit, repeatable
from modelyard.testing.context import RecordedContext

PLAIN = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, weight_decay=0.1, fused=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01, weight_decay=0.1, fused=True),
    "adadelta": lambda parameters: torch.optim.Adadelta(parameters, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, weight_decay=0.1),
}


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def rows() -> Part:
    generator = torch.Generator().manual_seed(2)
    return Part(torch.randn(96, 6, generator=generator), torch.randint(3, (96,), generator=generator))


@pytest.mark.parametrize("name", PLAIN)
def test_an_optimizer_gives_the_bits_of_pytorchs_own(name: str, context: RecordedContext) -> None:
    ours, theirs, data = network(), network(), rows()
    recipe = Recipe(3, 32, 0.01, name, 0.1, "cross_entropy", None, 0)
    with repeatable(0, 1, "cpu"):
        history = fit(context, ours, data, None, recipe)
        optimizer = PLAIN[name](theirs.parameters())
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            for chosen in torch.randperm(96, generator=generator).split(32):
                optimizer.zero_grad(set_to_none=True)
                functional.cross_entropy(theirs(data.inputs[chosen]), data.targets[chosen]).backward()
                optimizer.step()
    assert len(history) == 3
    for name_of, values in ours.state_dict().items():
        assert torch.equal(values, theirs.state_dict()[name_of])


def test_repeatable_puts_back_what_was_set() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with repeatable(0, 1, "cpu"):
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    with repeatable(0, 1, "cpu"):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_training_does_not_load_pytorchs_compiler() -> None:
    code = """
import sys, torch
from torch import nn
from modelyard.steps.torch_fit import _OPTIMIZERS, Part, Recipe, fit, repeatable
class Context:
    log = metric = progress = lambda *_: None
for name in _OPTIMIZERS:
    with repeatable(0, 1, "cpu"):
        fit(Context(), nn.Linear(2, 2), Part(torch.ones(8, 2), torch.ones(8, dtype=torch.int64)), None,
            Recipe(1, 4, 0.01, name, 0.0, "cross_entropy", None, 0))
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
