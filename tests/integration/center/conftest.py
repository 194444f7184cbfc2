"""A project folder in a real Git repository, with people who have real keys."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard.center import Actor, Center, Newcomer, Policy, init_people

PEOPLE = (
    Newcomer("Ann Example", "ann@example.org", ("data_scientist",)),
    Newcomer("Bob Example", "bob@example.org", ("data_scientist", "manager")),
    Newcomer("Max Example", "max@example.org", ("manager",)),
    Newcomer("Mia Example", "mia@example.org", ("manager",)),
)
SUMMARY = {"blueprint": "b" * 64, "data": {"train": "d" * 64}, "code": "e" * 64, "environment": {"numpy": "2"}}
POLICY = Policy(require={"accuracy": 0.9})


class Project:
    """A repository, and whom to act as."""

    def __init__(self, folder: Path, actors: dict[str, Actor]) -> None:
        self.folder = folder
        self.actors = actors

    def git(self, *arguments: str, check: bool = True, data: bytes | None = None) -> str:
        done = subprocess.run(("git", *arguments), cwd=self.folder, input=data, capture_output=True, check=check)
        return done.stdout.decode()

    def center(self, name: str | None = None, *, policy: Policy = POLICY, **more: object) -> Center:
        actor = self.actors[f"{name}@example.org"] if name else None
        # `more` is what the test says.
        return Center(self.folder, policy=policy, actor=actor, **more)  # type: ignore[arg-type]

    def submit(self, package: str = "a" * 64, name: str = "ann", accuracy: float = 0.95, major: bool = False) -> str:
        version = self.center(name).submit(
            "digits",
            package,
            contract_digest="c" * 64,
            contract_major_change=major,
            metrics={"accuracy": accuracy},
            run="20260131-142501-3f9c",
            summary={
                "blueprint": "b" * 64,
                "data": {"train": "d" * 64},
                "code": "e" * 64,
                "environment": {"numpy": "2"},
            },
        )
        return version.version

    def approved(self, package: str = "a" * 64) -> str:
        version = self.submit(package)
        self.center("max").approve("digits", version, "as good as it says")
        return version


@pytest.fixture(autouse=True)
def _own_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's Git configuration and SSH agent out of the tests."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (home / ".gitconfig").write_text("[user]\n\tname = Tester\n\temail = tester@example.org\n", encoding="utf-8")


@pytest.fixture(scope="session")
def _made_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Actor]]:
    folder = tmp_path_factory.mktemp("people")
    actors = init_people(folder, PEOPLE, folder / "keys")
    return (folder / "people.yaml").read_text(encoding="utf-8"), actors


@pytest.fixture
def make_project(tmp_path: Path, _made_once: tuple[str, dict[str, Actor]]) -> Callable[[str], Project]:
    def make(name: str) -> Project:
        folder = tmp_path / name
        folder.mkdir()
        project = Project(folder, _made_once[1])
        (folder / "people.yaml").write_text(_made_once[0], encoding="utf-8")
        project.git("init", "-q", "-b", "main")
        project.git("add", ".")
        project.git("commit", "-q", "-m", "Start")
        return project

    return make


@pytest.fixture
def project(make_project: Callable[[str], Project]) -> Project:
    return make_project("project")
