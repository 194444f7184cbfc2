"""What a reviewer looks at, and what subscribers are told of a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from modelyard.center.center import Summary
from modelyard.center.events import Released, RolledBack
from modelyard.center.registry import Registry, VersionState
from modelyard.errors import IntegrityError, NotFoundError
from modelyard.files import blake3_bytes, canonical_json
from modelyard.packages.contract import Contract
from modelyard.packages.package import Package
from modelyard.records import RunRecord
from modelyard.releases.events import ReleaseEvent
from modelyard.store.store import Store
from modelyard.text import short

__all__ = [
    "Evidence",
    "StoredPackage",
    "evidence_of",
    "fetch_package",
    "release_events",
    "stored_packages",
    "summary_of",
]


@dataclass(frozen=True, slots=True)
class StoredPackage:
    """A package and one name that keeps it."""

    model: str
    digest: str
    space: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for or against a version.

    Args:
        version: Its state, approvals and rejections.
        metrics: Measured by its run.
        live: Metrics of the version that is live in the last environment that has one, for comparison; may be empty.
        live_version: That version, or None.
        contract: What the model takes and gives, a line each.
        changed: Whether the contract differs from the live version's.
        files: Evidence files in the package: plots, metrics, the model card.
        folder: The package, unpacked, verified and read-only.
    """

    version: VersionState
    metrics: Mapping[str, float]
    live: Mapping[str, float]
    live_version: str | None
    contract: Mapping[str, Any]
    changed: bool
    files: tuple[Path, ...]
    folder: Path


def fetch_package(store: Store, digest: str) -> Path:
    """Return the folder of a package, local and read-only.

    Raises:
        NotFoundError: The package is not in this store: it may be a clone's own, and empty.
        IntegrityError: Its bytes do not match.
    """
    try:
        return store.fetch_tree(digest)
    except NotFoundError as error:
        raise NotFoundError(
            f"The package {short(digest)} is not in this store, or not all of it.",
            where=store.url,
            remedy="Git keeps the decisions, and the store the bytes: "
            "name the store of those who submit as `store` in modelyard.toml.",
        ) from error


def evidence_of(registry: Registry, version: VersionState, store: Store) -> Evidence:
    """Return what a reviewer needs to see of a version.

    Raises:
        NotFoundError: The package is not in this store.
        IntegrityError: Its bytes do not match, or it does not say what the registration says of it.
    """
    folder = fetch_package(store, version.package)
    contract = Package.open(folder).contract
    _agree(version, contract, folder)
    model = registry.model(version.model)
    others = [place.version for place in model.live.values() if place.version != version.version]
    live = model.versions[others[-1]] if others else None
    return Evidence(
        version=version,
        metrics=version.metrics,
        live=live.metrics if live else {},
        live_version=live.version if live else None,
        contract={
            "inputs": {field.name: _type(field.dtype, field.shape) for field in contract.inputs},
            "outputs": {field.name: _type(field.dtype, field.shape) for field in contract.outputs},
        },
        changed=live is not None and live.contract != version.contract,
        files=tuple(sorted(path for path in (folder / "evidence").rglob("*") if path.is_file())),
        folder=folder,
    )


def _agree(version: VersionState, contract: Contract, folder: Path) -> None:
    """See that the signed registration, which the gates are checked against, tells of the package that it names."""
    where, remedy = f"{version.model} v{version.version}", "Reject it, and ask who submitted it."
    if version.contract != contract.digest:
        raise IntegrityError(
            "The registration names another contract than the package has.", where=where, remedy=remedy
        )
    measured = _measured(folder / "evidence" / "metrics.json")
    for name, value in version.metrics.items():
        if name in measured and measured[name] != value:
            raise IntegrityError(
                f"The registration says {name} {value:g}, and the package's evidence {measured[name]}.",
                where=where,
                remedy=remedy,
            )


def _measured(file: Path) -> Mapping[str, Any]:
    """Return the metrics in a package's evidence; none where it has no such file, or one of another form."""
    try:
        content = msgspec.json.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    found = content.get("metrics", content) if isinstance(content, dict) else {}
    return found if isinstance(found, dict) else {}


def _type(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}{list(shape)}" if shape else dtype


def summary_of(record: RunRecord) -> Summary:
    """Return what a registration tells of a run: digests of blueprint, data and code, and the libraries used."""
    prints = [task.fingerprint for task in record.tasks.values() if task.fingerprint is not None]
    return Summary(
        blueprint=record.blueprint_digest,
        data={name: digest for f in prints for name, digest in f.inputs.items() if name.startswith("file:")},
        code=blake3_bytes(canonical_json({name: digest for f in prints for name, digest in f.code.items()})),
        environment={"python": record.environment.get("python", "")}
        | {name: version for f in prints for name, version in f.distributions.items()},
    )


def release_events(registry: Registry, source: str) -> list[ReleaseEvent]:
    """Return every release and rollback that Git records, as subscribers are told of it."""
    return [
        ReleaseEvent(
            source=source,
            model=event.model,
            version=f"v{event.version}",
            environment=event.environment,
            package=event.package,
            actor=event.actor,
            tag=event.tag,
            time=float(event.time),
        )
        for model in registry.models.values()
        for event in model.events
        if isinstance(event, Released | RolledBack)
    ]


def stored_packages(store: Store) -> list[StoredPackage]:
    """Return every package that a name in the store's spaces keeps."""
    found = []
    for name, digest in store.names.list():
        parts = name.split("/")
        if parts[0] == "private" and len(parts) == 5 and parts[2] == "packages":
            found.append(StoredPackage(parts[3], digest, "/".join(parts[:2])))
        elif parts[0] == "staging" and len(parts) == 3:
            found.append(StoredPackage(parts[1], digest, f"staging ({parts[2]})"))
    return found
