"""The policy: what must be true before a version may be released, and where it passes through."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from modelyard.center.events import APPROVED, NAME, REJECTED
from modelyard.errors import InputError

if TYPE_CHECKING:
    from modelyard.blueprint.model import Blueprint

__all__ = ["MAXIMA", "Policies", "Policy", "policy_for", "policy_of"]

MAXIMA = frozenset(("log_loss", "mean_relative_error", "mae", "rmse"))
"""Metrics that are errors: a gate on one of these is a maximum, on any other a minimum."""


class Policy(msgspec.Struct, frozen=True):
    """The review rules of one model.

    Args:
        approvals: How many people must approve; none of them the submitter.
        roles: A person with one of these decides, releases, rolls back and lifts.
        require: Metric gates; for the metrics in `MAXIMA` the value is a maximum, for others a minimum.
        environments: In the order in which a version passes them.

    Raises:
        InputError: An environment has a name that GTO does not read, one of its own, or one twice; or there is
            no role, or a negative number of approvals.
    """

    approvals: int = 1
    roles: tuple[str, ...] = ("manager",)
    require: dict[str, float] = {}
    environments: tuple[str, ...] = ("dev", "staging", "production")

    def __post_init__(self) -> None:
        for environment in self.environments:
            if environment in (APPROVED, REJECTED):
                raise InputError(
                    f"An environment can't be called {environment!r}: the Model Center's tags use that word.",
                    remedy="Give it another name.",
                )
            if re.fullmatch(NAME, environment, re.ASCII) is None:
                raise InputError(
                    f"{environment!r} can't be an environment's name.",
                    remedy="Use letters, digits, `-` and `_`; the first and the last a letter or a digit.",
                )
        if len(set(self.environments)) != len(self.environments):
            raise InputError("An environment stands twice in the policy.", remedy="Remove one of the two.")
        if self.approvals < 0:
            raise InputError("The number of approvals is negative.", remedy="Use 0 or more.")
        if not self.roles:
            raise InputError("The policy names no role that decides.", remedy="Name one, such as manager.")

    def unmet(self, metrics: Mapping[str, float]) -> str | None:
        """Return the first gate that metrics do not pass, as a sentence; or None where they pass all."""
        for metric, gate in self.require.items():
            if metric not in metrics:
                return f"The policy asks for {metric}, and the registration carries none."
            value = metrics[metric]
            passes, side = (value <= gate, "at most") if metric in MAXIMA else (value >= gate, "at least")
            if not passes:  # also where the value is no number: NaN passes neither
                return f"{metric} is {value:g}; the policy asks for {side} {gate:g}."
        return None


Policies = Policy | Mapping[str, Policy]
"""One policy for every model, or one by model name (a model without one has the default policy)."""


def policy_for(model: str, policies: Policies) -> Policy:
    """Return the policy of a model."""
    return policies if isinstance(policies, Policy) else policies.get(model, Policy())


def policy_of(blueprint: Blueprint) -> Policy:
    """Return the policy that a blueprint describes in `review` and `environments`."""
    review = blueprint.review
    return Policy(
        approvals=review.approvals,
        roles=review.roles,
        require={str(metric): gate for metric, gate in review.require.items()},
        environments=tuple(environment.name for environment in blueprint.environments),
    )
