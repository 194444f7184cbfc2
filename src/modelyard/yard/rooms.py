"""What the yard takes from other rooms, each imported when it is first used: a command pays for what it touches.

`rooms.Catalog` is the class `Catalog`, and so on. This is the one place where imports wait; everything else is imported
at the top of its module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelyard.blueprint.code import CodeReader
    from modelyard.blueprint.load import load_blueprint
    from modelyard.blueprint.model import Blueprint
    from modelyard.blueprint.plan import plan
    from modelyard.catalog.catalog import Catalog
    from modelyard.catalog.liveness import process_identity
    from modelyard.center.center import Center
    from modelyard.center.policy import policy_of
    from modelyard.engines.executors import open_executor
    from modelyard.engines.scheduler import Scheduler
    from modelyard.releases.bus import open_bus
    from modelyard.releases.outbox import Outbox
    from modelyard.store.gc import collect
    from modelyard.store.verify import verify
    from modelyard.yard.beginning import begin
    from modelyard.yard.deployment import Deployment
    from modelyard.yard.environment import environment_lock
    from modelyard.yard.files import named_blueprints
    from modelyard.yard.identity import actor_of
    from modelyard.yard.insight import compare_runs, explain_task
    from modelyard.yard.packing import pack, package_name
    from modelyard.yard.policies import CommittedPolicies
    from modelyard.yard.prediction import FilePrediction
    from modelyard.yard.review import evidence_of, release_events, stored_packages, summary_of
    from modelyard.yard.services import Services
    from modelyard.yard.swapping import Swapping

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

__all__ = [
    "Blueprint", "Catalog", "Center", "CodeReader", "CommittedPolicies", "Deployment", "FilePrediction", "Outbox",
    "Scheduler", "Services", "Swapping", "actor_of", "begin", "collect", "compare_runs", "environment_lock",
    "evidence_of", "explain_task", "load_blueprint", "named_blueprints", "open_bus", "open_executor", "pack",
    "package_name", "plan", "policy_of", "process_identity", "release_events", "stored_packages", "summary_of",
    "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # PEP 562: asked only for names that are not there yet.
    if name not in HOME:
        raise AttributeError(f"module 'modelyard.yard.rooms' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(HOME[name]), name)
    return value
