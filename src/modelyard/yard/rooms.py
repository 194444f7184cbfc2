"""What the yard takes from other rooms, each imported when it is first used: a command pays for what it touches.

`rooms.Catalog` is the class `Catalog`, and so on. This is the one place where imports wait; everything else is imported
at the top of its module.

The names stand here twice: a type checker reads import statements alone, and those would not wait. A test holds the two
together.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelyard.blueprint.code import CodeReader as CodeReader
    from modelyard.blueprint.load import load_blueprint as load_blueprint
    from modelyard.blueprint.model import Blueprint as Blueprint
    from modelyard.blueprint.plan import plan as plan
    from modelyard.catalog.catalog import Catalog as Catalog
    from modelyard.catalog.liveness import process_identity as process_identity
    from modelyard.center.center import Center as Center
    from modelyard.center.policy import policy_of as policy_of
    from modelyard.engines.executors import open_executor as open_executor
    from modelyard.engines.scheduler import Scheduler as Scheduler
    from modelyard.releases.bus import open_bus as open_bus
    from modelyard.releases.outbox import Outbox as Outbox
    from modelyard.store.gc import collect as collect
    from modelyard.store.verify import verify as verify
    from modelyard.yard.beginning import begin as begin
    from modelyard.yard.deployment import Deployment as Deployment
    from modelyard.yard.environment import environment_lock as environment_lock
    from modelyard.yard.files import named_blueprints as named_blueprints
    from modelyard.yard.identity import actor_of as actor_of
    from modelyard.yard.insight import compare_runs as compare_runs
    from modelyard.yard.insight import explain_task as explain_task
    from modelyard.yard.packing import pack as pack
    from modelyard.yard.packing import package_name as package_name
    from modelyard.yard.policies import CommittedPolicies as CommittedPolicies
    from modelyard.yard.prediction import FilePrediction as FilePrediction
    from modelyard.yard.review import evidence_of as evidence_of
    from modelyard.yard.review import release_events as release_events
    from modelyard.yard.review import stored_packages as stored_packages
    from modelyard.yard.review import summary_of as summary_of
    from modelyard.yard.services import Services as Services
    from modelyard.yard.swapping import Swapping as Swapping

_HOMES = {
    "modelyard.blueprint.code": ("CodeReader",),
    "modelyard.blueprint.load": ("load_blueprint",),
    "modelyard.blueprint.model": ("Blueprint",),
    "modelyard.blueprint.plan": ("plan",),
    "modelyard.catalog.catalog": ("Catalog",),
    "modelyard.catalog.liveness": ("process_identity",),
    "modelyard.center.center": ("Center",),
    "modelyard.center.policy": ("policy_of",),
    "modelyard.engines.executors": ("open_executor",),
    "modelyard.engines.scheduler": ("Scheduler",),
    "modelyard.releases.bus": ("open_bus",),
    "modelyard.releases.outbox": ("Outbox",),
    "modelyard.store.gc": ("collect",),
    "modelyard.store.verify": ("verify",),
    "modelyard.yard.beginning": ("begin",),
    "modelyard.yard.deployment": ("Deployment",),
    "modelyard.yard.environment": ("environment_lock",),
    "modelyard.yard.files": ("named_blueprints",),
    "modelyard.yard.identity": ("actor_of",),
    "modelyard.yard.insight": ("compare_runs", "explain_task"),
    "modelyard.yard.packing": ("pack", "package_name"),
    "modelyard.yard.policies": ("CommittedPolicies",),
    "modelyard.yard.prediction": ("FilePrediction",),
    "modelyard.yard.review": ("evidence_of", "release_events", "stored_packages", "summary_of"),
    "modelyard.yard.services": ("Services",),
    "modelyard.yard.swapping": ("Swapping",),
}
HOME = {name: module for module, names in _HOMES.items() for name in names}
"""The module that each name lives in."""

__all__ = [*HOME]

if not TYPE_CHECKING:
    # Hidden from the type checker: to it a module with this function has every name, also a misspelt one.
    def __getattr__(name: str) -> Any:
        # PEP 562: asked only for names that are not there yet.
        if name not in HOME:
            raise AttributeError(f"module 'modelyard.yard.rooms' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(HOME[name]), name)
        return value
