"""The yard: an opened project. Settings become objects here and nowhere else."""

from __future__ import annotations

import contextlib
import difflib
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.config import Settings, load_settings
from modelyard.contracts import Bus, Executor, Listener
from modelyard.errors import BlueprintError, InputError, NotFoundError, Problem, RefusedError, StorageError
from modelyard.files import canonical_json
from modelyard.records import Event, EventKind, RunRecord, TaskRecord
from modelyard.store.store import Store
from modelyard.yard import rooms
from modelyard.yard.project import as_named, commit_of, find_project, new_run_id, owner_of, user_name
from modelyard.yard.run import Run, run_manifests

if TYPE_CHECKING:
    from modelyard.blueprint.code import CodeReader
    from modelyard.blueprint.model import Blueprint
    from modelyard.blueprint.plan import Plan
    from modelyard.catalog.catalog import Catalog
    from modelyard.center.center import Actor, Center
    from modelyard.center.policy import Policy
    from modelyard.center.registry import Live, Story, VersionState
    from modelyard.engines.scheduler import Preview, Scheduler
    from modelyard.releases.outbox import Delivery
    from modelyard.store.gc import Collected
    from modelyard.store.verify import Damage
    from modelyard.yard.insight import Answer, Comparison
    from modelyard.yard.packing import Packed
    from modelyard.yard.policies import CommittedPolicies
    from modelyard.yard.review import Evidence, StoredPackage
    from modelyard.yard.services import Services

__all__ = ["Yard"]


class Yard:
    """An opened project.

    Args:
        project: The project folder.
        settings: Its settings.

    Example:
        >>> yard = modelyard.open(".")                              # doctest: +SKIP
        >>> run = yard.run("digits", params={"train.alpha": 0.01})  # doctest: +SKIP
        >>> version = yard.submit(run)                              # doctest: +SKIP
    """

    def __init__(self, project: Path, settings: Settings) -> None:
        self.project = project
        self.settings = settings
        self._center: tuple[dict[str, Policy], Center] | None = None

    @classmethod
    def open(cls, folder: Path | str = ".") -> Yard:
        """Open the project that a folder lies in; see `modelyard.open`."""
        project = find_project(Path(folder))
        return cls(project, load_settings(project))

    def __repr__(self) -> str:
        return f"<Yard {self.project}>"

    # What settings name, opened when first used.

    @cached_property
    def store(self) -> Store:
        """Objects and names."""
        return Store.open(self._absolute(self.settings.store))

    @cached_property
    def catalog(self) -> Catalog:
        """The index over runs, metrics and lineage; where its file is gone, it is made anew from the store."""
        url = self._absolute(self.settings.catalog)
        kept = url.removeprefix("sqlite:///")
        if kept != url and not Path(kept).exists():
            # Its file is there before the first run's manifest is: a manifest without it tells of a lost catalog.
            with contextlib.suppress(StorageError):
                if records := list(run_manifests(self.store)):
                    return rooms.Catalog.rebuilt(url, records)
        return rooms.Catalog.open(url)

    @cached_property
    def bus(self) -> Bus:
        """What carries release events."""
        return rooms.open_bus(self._absolute(self.settings.bus))

    @cached_property
    def code(self) -> CodeReader:
        """What reads the project's code to fingerprint it."""
        return rooms.CodeReader(self.project)

    @property
    def center(self) -> Center:
        """The Model Center of the project's repository, seen by you, with the rules of the commit that HEAD is now."""
        policies = self._policies.read()
        if self._center is None or self._center[0] != policies:
            self._center = (policies, self.center_as(None))
        return self._center[1]

    def center_as(self, identity: str | None) -> Center:
        """Return the Model Center as a person sees it.

        Args:
            identity: Name or email in `people.yaml`; None takes the setting, then Git's `user.email`.
        """
        return rooms.Center(
            self.project,
            policy=self._policies.read(),
            actor=rooms.actor_of(self.project, self.settings, identity),
            cache=self.catalog,
        )

    @property
    def actor(self) -> Actor | None:
        """Who acts where nobody else is named, or None."""
        return rooms.actor_of(self.project, self.settings, None)

    @cached_property
    def _policies(self) -> CommittedPolicies:
        return rooms.CommittedPolicies(self.project)

    @contextlib.contextmanager
    def _by_committed_rules(self, model: str) -> Iterator[None]:
        """Tell who is refused that the rules in the work tree are others, and do not count yet."""
        try:
            yield
        except RefusedError as error:
            file = self._uncommitted_rules(model)
            if file is None:
                raise
            more = f"The rules in {file} differ from the committed ones, and count once you commit them."
            raise RefusedError(error.what, where=error.where, remedy=f"{error.remedy or ''} {more}".strip()) from error

    def _uncommitted_rules(self, model: str) -> str | None:
        for path in self.blueprints().values():
            with contextlib.suppress(BlueprintError):
                blueprint = rooms.load_blueprint(path)
                if blueprint.model_name == model and self._policies.read().get(model) != rooms.policy_of(blueprint):
                    return path.name
        return None

    # Blueprints and plans.

    def blueprints(self) -> dict[str, Path]:
        """Return the project's blueprints by name: the pipeline's, or the file's where that can't be read."""
        return rooms.named_blueprints(self.project)

    def blueprint(self, name: str | None = None, params: Mapping[str, Any] | None = None) -> Blueprint:
        """Load a blueprint.

        Args:
            name: A pipeline's name or a file. Default: `blueprint.yaml`.
            params: Overrides, such as `{"train.alpha": 0.01}`.

        Raises:
            NotFoundError: No blueprint has that name.
            BlueprintError: All that is wrong in it.
        """
        return rooms.load_blueprint(as_named(self.blueprint_file(name)), params or {}, project=self.project)

    def blueprint_file(self, name: str | None = None) -> Path:
        """Return the file of a blueprint; see `blueprint`."""
        if name is None:
            return self.project / "blueprint.yaml"
        known = self.blueprints()
        if name in known:
            return known[name]
        path = Path(name)
        if path.suffix in (".yaml", ".yml"):
            return path if path.is_absolute() or path.exists() else self.project / path
        near = difflib.get_close_matches(name, known, n=1)
        raise NotFoundError(
            f"There is no blueprint {name!r}.",
            where=str(self.project),
            remedy=f"Did you mean {near[0]}?" if near else f"The blueprints are {', '.join(known) or 'none yet'}.",
        )

    def check(self, names: Sequence[str] = ()) -> dict[str, Blueprint]:
        """Load blueprints (default: all of the project), by file, and look for the files of the project they name.

        Raises:
            BlueprintError: All that is wrong in all of them.
            NotFoundError: There is no blueprint, or none of that name.
        """
        files = [self.blueprint_file(name) for name in names] or list(self.blueprints().values())
        if not files:
            raise NotFoundError(
                "There is no blueprint here.", where=str(self.project), remedy="Start one: modelyard init"
            )
        found: dict[str, Blueprint] = {}
        problems: list[Problem] = []
        for file in files:
            try:
                blueprint = rooms.load_blueprint(as_named(file), project=self.project, files=True)
                found[os.path.relpath(file, self.project)] = blueprint
            except BlueprintError as error:
                problems += error.problems
        if problems or (problems := _same_names(found)):
            raise BlueprintError(tuple(problems))
        return found

    def plan(self, name: str | None = None, params: Mapping[str, Any] | None = None) -> Plan:
        """Return the plan of a blueprint; see `blueprint` for the arguments."""
        return rooms.plan(self.blueprint(name, params), project=self.project)

    def preview(self, name: str | None = None, params: Mapping[str, Any] | None = None) -> list[Preview]:
        """Say for every task whether it would run or is cached, and why; nothing is run."""
        with rooms.open_executor("inline", store=self.store) as executor:
            scheduler = rooms.Scheduler(self.store, self.code, executor, latest=self._latest)
            return scheduler.preview(self.plan(name, params), self.project)

    # Runs.

    def run(
        self,
        name: str | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        executor: str | None = None,
        workers: int | None = None,
        resume: str | None = None,
        listeners: Sequence[Listener] = (),
        check: bool = True,
    ) -> Run:
        """Run a blueprint to its end.

        Args:
            name: A pipeline's name or a file. Default: `blueprint.yaml`.
            params: Overrides, such as `{"train.alpha": 0.01}`.
            executor: `inline`, `processes`, or an installed one. Default: the setting.
            workers: Tasks side by side. Default: the setting, else one for each core.
            resume: Id of a run to go on from: its blueprint and overrides are taken unless given.
            listeners: Called with each event, in order.
            check: Raise where the run did not succeed. With False the caller looks at `run.state`.

        Returns:
            The run, finished.

        Raises:
            BlueprintError: Before anything ran.
            RunError: A step failed; its class says how. The run is recorded, and can be resumed.
        """
        earlier = self.get(resume).record if resume else None
        if earlier is not None and name is None:
            name = earlier.blueprint
        overrides = dict(params or (earlier.overrides if earlier else {}))
        blueprint = self.blueprint(name, overrides)
        graph = rooms.plan(blueprint, project=self.project)
        commit = commit_of(self.project)
        record = RunRecord(
            id=new_run_id(),
            blueprint=blueprint.pipeline.name,
            blueprint_digest=graph.digest,
            blueprint_object=self.store.objects.put(canonical_json(blueprint.model_dump(mode="json"))),
            overrides=overrides,
            started=time.time(),
            actor=self.settings.identity or user_name(),
            commit=commit.digest,
            dirty=commit.dirty,
            environment=rooms.environment_lock(),
            resumed=earlier.id if earlier else None,
            pid=os.getpid(),
            process=rooms.process_identity(os.getpid()),
            host=socket.gethostname(),
        )
        chosen = executor or self.settings.executor
        with rooms.open_executor(chosen, workers=workers or self.settings.workers, store=self.store) as runner:
            finished = self._scheduler(runner, listeners).run(graph, run=record, project=self.project, resume=earlier)
        run = Run(finished, self.store, self.project)
        return run.raise_for_state() if check else run

    def _scheduler(self, executor: Executor, listeners: Sequence[Listener] = ()) -> Scheduler:
        return rooms.Scheduler(
            self.store, self.code, executor, listeners=(*listeners, self._curves), recorder=self.catalog.record,
            latest=self._latest,
        )  # fmt: skip

    def _latest(self, blueprint: str, task: str) -> TaskRecord | None:
        return self.catalog.latest_task(blueprint, task)

    def _curves(self, event: Event) -> None:
        if event.kind is EventKind.METRIC:
            self.catalog.metric(event)

    def runs(self, name: str | None = None, limit: int = 50) -> list[Run]:
        """Return runs, the newest first.

        Args:
            name: Of one pipeline alone. Default: all.
            limit: How many at most.
        """
        return [Run(record, self.store, self.project) for record in self.catalog.runs(name, limit)]

    def get(self, run: str = "latest") -> Run:
        """Return one run.

        Args:
            run: Its id, the beginning of it, `latest`, or a pipeline's name for the latest of that.

        Raises:
            NotFoundError: There is no such run, or the beginning fits several.
        """
        if run == "latest" or run in self.blueprints():
            found = self.runs(None if run == "latest" else run, limit=1)
            if not found:
                of, name = ("", "") if run == "latest" else (f" of {run}", f" {run}")
                raise NotFoundError(
                    f"There are no runs{of} yet.", where=str(self.project), remedy=f"Make one: modelyard run{name}"
                )
            return found[0]
        return Run(self.catalog.run(run), self.store, self.project)

    def why(self, step: str, run: str = "latest") -> Answer:
        """Say why a step ran in a run, or why it was answered from the cache.

        Raises:
            NotFoundError: There is no such run or step.
        """
        found = self.get(run)
        before = self.catalog.latest_task(found.record.blueprint, step, before=found.id)
        return rooms.explain_task(found.record, found.task(step), before)

    def diff(self, first: str, second: str) -> Comparison:
        """Compare two runs; see `get` for how to name them."""
        return rooms.compare_runs(self.get(first).record, self.get(second).record)

    # Packages and versions.

    def pack(self, run: Run | str = "latest") -> Packed:
        """Build the package of a run's model and keep it in your private space; the same run gives the same digest.

        Raises:
            RunError: The run did not succeed.
            InputError: It has no evaluated model.
        """
        packed = rooms.pack(self._run_of(run), self.store, self.project)
        self.store.names.set(rooms.package_name(packed.model, packed.digest, owner_of(self.settings)), packed.digest)
        return packed

    def packages(self) -> list[StoredPackage]:
        """Return every package that a name keeps."""
        return rooms.stored_packages(self.store)

    def submit(self, run: Run | str = "latest", *, reason: str = "", identity: str | None = None) -> VersionState:
        """Pack a run's model and submit it for review, as the next version of its model.

        A changed contract raises the major version, everything else the minor one.

        Args:
            run: See `get`.
            reason: A word to the reviewers.
            identity: Who submits. Default: you.

        Raises:
            RunError: The run did not succeed.
            RefusedError: You may not submit, or this package is a version already.
        """
        found = self._run_of(run)
        packed = self.pack(found)
        center = self.center_as(identity)
        known = center.state().models.get(packed.model)
        latest = known.latest if known else None
        version = center.submit(
            packed.model,
            packed.digest,
            contract_digest=packed.contract.digest,
            contract_major_change=latest is not None and latest.contract != packed.contract.digest,
            metrics=packed.metrics,
            run=packed.run,
            summary=rooms.summary_of(found.record),
            reason=reason,
        )
        self.store.names.set(f"staging/{packed.model}/v{version.version}", packed.digest)
        return version

    def _run_of(self, run: Run | str) -> Run:
        return run if isinstance(run, Run) else self.get(run)

    def review(self, model: str | None = None, version: str | None = None) -> Evidence:
        """Return the evidence of a version.

        Args:
            model: Default: the only model there is, or that of `blueprint.yaml`.
            version: Such as `v1.2.0`. Default: the newest.

        Raises:
            NotFoundError: There is no such model or version.
            IntegrityError: The package's bytes do not match its digest.
        """
        registry = self.center.state()
        found = registry.model(model or self.default_model())
        chosen = found.version(version) if version else found.latest
        if chosen is None:
            raise NotFoundError(f"{found.name} has no version.", remedy="Submit one: modelyard submit")
        return rooms.evidence_of(registry, chosen, self.store)

    def default_model(self) -> str:
        """Return the model that is meant where none is named: the one of `blueprint.yaml`, or the only one."""
        file = self.blueprint_file()
        if file.exists():
            return self.blueprint().model_name
        names = {self.blueprint(name).model_name for name in self.blueprints()}
        if len(names) == 1:
            return names.pop()
        raise InputError("Which model?", remedy=f"Name one of {', '.join(sorted(names))}.")

    def approve(
        self, model: str, version: str | None = None, *, reason: str = "", identity: str | None = None
    ) -> VersionState:
        """Approve a version (default: the newest) whose package says what its registration says; see `Center.approve`.

        Raises:
            IntegrityError: It does not.
            NotFoundError: The package is not in this store, so nobody here can have looked at it.
        """
        center = self.center_as(identity)
        chosen = version or self._newest(model)
        with self._by_committed_rules(model):
            self.review(model, chosen)
            return center.approve(model, chosen, reason)

    def reject(
        self, model: str, version: str | None = None, *, reason: str = "", identity: str | None = None
    ) -> VersionState:
        """Reject a version for good (default: the newest); see `Center.reject`."""
        center = self.center_as(identity)
        with self._by_committed_rules(model):
            return center.reject(model, version or self._newest(model), reason)

    def _newest(self, model: str) -> str:
        latest = self.center.state().model(model).latest
        if latest is None:
            raise NotFoundError(f"{model} has no version.", remedy="Submit one: modelyard submit")
        return latest.version

    # Releases.

    def release(
        self, model: str, to: str, version: str | None = None, *, reason: str = "", identity: str | None = None
    ) -> Live:
        """Release a version to an environment and announce it; see `Center.release`.

        The release stands once Git has it. Where the bus fails, it is announced with the next one.
        """
        with self._by_committed_rules(model):
            live = self.center_as(identity).release(model, to, version, reason=reason)
        self.announce()
        return live

    def may_release(self, model: str, to: str, version: str | None = None, *, identity: str | None = None) -> str:
        """Return the version that `release` would put live, and do nothing; it raises what `release` would."""
        with self._by_committed_rules(model):
            return self.center_as(identity).may_release(model, to, version)

    def rollback(
        self, model: str, environment: str, to: str | None = None, *, reason: str, identity: str | None = None
    ) -> Live:
        """Bring an earlier version back and hold the environment; see `Center.rollback`."""
        with self._by_committed_rules(model):
            live = self.center_as(identity).rollback(model, environment, to, reason=reason)
        self.announce()
        return live

    def may_roll_back(self, model: str, environment: str, to: str | None = None, *, identity: str | None = None) -> str:
        """Return the version that `rollback` would put live, and do nothing; it raises what `rollback` would."""
        with self._by_committed_rules(model):
            return self.center_as(identity).may_roll_back(model, environment, to)

    def lift(self, model: str, environment: str, *, reason: str, identity: str | None = None) -> Live:
        """Let a held environment take releases again; see `Center.lift`."""
        return self.center_as(identity).lift(model, environment, reason)

    def announce(self) -> Delivery:
        """Publish every release that Git records and the bus has not carried yet."""
        return rooms.Outbox(self.bus).flush(rooms.release_events(self.center.state(), self.project.as_uri()))

    def show(self, model: str | None = None) -> list[Story]:
        """Tell the story of a model: who did what, when, on which package and run."""
        return self.center.history(model or self.default_model())

    # Services and upkeep.

    @cached_property
    def services(self) -> Services:
        """The project's services, one for each environment."""
        return rooms.Services(self)

    def verify(self) -> list[Damage]:
        """Check every stored byte against its digest; return what is damaged or missing."""
        return list(rooms.verify(self.store))

    def gc(self, *, dry_run: bool = False) -> Collected:
        """Remove stored objects that nothing refers to.

        Args:
            dry_run: Only say what would be removed.
        """
        return rooms.collect(self.store, dry_run=dry_run)

    def rebuild_catalog(self) -> int:
        """Make the catalog anew from the run manifests in the store; return how many runs it has."""
        self.close()
        records = list(run_manifests(self.store))
        rooms.Catalog.rebuilt(self._absolute(self.settings.catalog), records).close()
        return len(records)

    def close(self) -> None:
        """Write what is still held back, and give back what was opened; the yard opens it again when it is used."""
        self._center = None
        for name in ("catalog", "bus"):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                opened.close()

    def __enter__(self) -> Yard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _absolute(self, url: str) -> str:
        for scheme in ("sqlite:///", "file://"):
            path = url.removeprefix(scheme)
            if path != url and not path.startswith("/"):
                return f"{scheme}{self.project / path}"
        return url


def _same_names(blueprints: Mapping[str, Blueprint]) -> list[Problem]:
    """Return a problem for each blueprint whose pipeline has another's name: their runs could not be told apart."""
    first: dict[str, str] = {}
    return [
        Problem(f"{first[name]} has a pipeline {name!r} too.", file, key="pipeline.name", remedy="Rename one of them.")
        for file, blueprint in blueprints.items()
        if first.setdefault(name := blueprint.pipeline.name, file) != file
    ]
