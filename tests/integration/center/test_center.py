"""The whole review, from submission to rollback, on a real repository with real signatures."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from modelyard.center import Actor, Center, Newcomer, Policy, State, actor_of, init_people
from modelyard.errors import (
    InputError,
    IntegrityError,
    MissingExtraError,
    ModelyardError,
    NotFoundError,
    RefusedError,
    StorageError,
)


def test_a_version_goes_from_submission_to_production(project: Any) -> None:
    assert project.submit() == "1.0.0"
    manager = project.center("max")
    assert manager.approve("digits", "v1.0.0", "as good as it says").state is State.APPROVED
    for place in ("dev", "staging", "production"):
        assert manager.release("digits", place).version == "1.0.0"
    registry = project.center().state()
    assert [live.version for live in registry.model("digits").live.values()] == ["1.0.0"] * 3
    assert registry.problems == ()
    version = registry.version("digits", "1.0.0")
    assert (version.package, version.contract, version.run) == ("a" * 64, "c" * 64, "20260131-142501-3f9c")
    assert (version.registration.code, version.registration.environment) == ("e" * 64, {"numpy": "2"})


def test_the_submitter_and_a_developer_are_refused_and_nothing_is_recorded(project: Any) -> None:
    project.submit()
    project.center("bob").submit(
        "letters", "a" * 64, contract_digest="c", contract_major_change=False, metrics={"accuracy": 1.0}, run="r"
    )
    before = project.git("for-each-ref")
    with pytest.raises(RefusedError, match="may not approve") as caught:
        project.center("ann").approve("digits", "1.0.0", "mine")
    assert caught.value.remedy
    with pytest.raises(RefusedError, match=r"bob@example\.org submitted v1\.0\.0"):
        project.center("bob").approve("letters", "1.0.0", "mine")
    with pytest.raises(RefusedError, match="may not release"):
        project.center("ann").release("digits", "dev")
    assert project.git("for-each-ref") == before


def test_versions_follow_the_contract(project: Any) -> None:
    found = [project.submit(f"{index}", major=major) for index, major in enumerate([True, False, True, False])]
    assert found == ["1.0.0", "1.1.0", "2.0.0", "2.1.0"]


def test_the_caller_can_name_the_next_version(project: Any) -> None:
    asked: list[str | None] = []

    def bump(previous: str | None) -> str:
        asked.append(previous)
        return "v0.9.0" if previous is None else "0.10.0"

    for package in ("a", "b"):
        project.center("ann").submit(
            "digits", package, contract_digest="c", contract_major_change=bump, metrics={"accuracy": 1.0}, run="r"
        )
    assert asked == [None, "0.9.0"]
    assert list(project.center().state().model("digits").versions) == ["0.9.0", "0.10.0"]


def test_a_package_is_submitted_once_unless_it_was_rejected(project: Any) -> None:
    project.submit()
    with pytest.raises(RefusedError, match=r"is v1\.0\.0 already"):
        project.submit()
    project.center("max").reject("digits", "1.0.0", "too slow")
    assert project.submit() == "1.1.0"


def test_a_version_name_taken_by_a_forged_tag_is_passed_over(project: Any) -> None:
    project.git("tag", "-a", "-m", "mine", "digits@v1.0.0")
    assert project.submit() == "1.1.0"


def test_a_release_without_a_version_takes_what_is_live_before(project: Any) -> None:
    manager = project.center("max")
    project.approved("a")
    manager.release("digits", "dev")
    project.approved("b")
    assert manager.release("digits", "staging").version == "1.0.0"
    assert manager.release("digits", "dev").version == "1.1.0"


def test_a_rollback_holds_until_it_is_lifted(project: Any) -> None:
    manager = project.center("max")
    for package in ("a", "b"):
        project.approved(package)
        manager.release("digits", "dev")
    assert manager.rollback("digits", "dev", reason="wrong on sevens").version == "1.0.0"
    with pytest.raises(RefusedError, match="wrong on sevens"):
        manager.release("digits", "dev", "1.1.0")
    with pytest.raises(RefusedError, match="No other version"):
        manager.rollback("digits", "dev", reason="again")
    assert project.center("mia").lift("digits", "dev", "fixed").version == "1.0.0"
    assert manager.release("digits", "dev", "1.1.0").version == "1.1.0"


def test_an_environment_that_does_not_exist_is_wrong_input_and_those_there_are_are_named(project: Any) -> None:
    project.approved()
    manager = project.center("max")
    for deed in (
        lambda: manager.release("digits", "stagin"),
        lambda: manager.may_release("digits", "stagin"),
        lambda: manager.rollback("digits", "stagin", reason="worse"),
        lambda: manager.lift("digits", "stagin", "mended"),
    ):
        with pytest.raises(NotFoundError, match="There is no environment 'stagin'") as told:
            deed()
        assert "Did you mean staging? There are dev, staging, production" in str(told.value.remedy)


def test_the_history_tells_who_did_what_on_which_package(project: Any) -> None:
    project.approved()
    project.center("max").release("digits", "dev", reason="for the demo")
    origin = f"(package {'a' * 12}, run 20260131-142501-3f9c)"
    assert [str(story) for story in project.center().history("digits")] == [
        f"Ann Example <ann@example.org> submitted v1.0.0 {origin}",
        f"Max Example <max@example.org> approved v1.0.0: as good as it says {origin}",
        f"Max Example <max@example.org> released v1.0.0 to dev: for the demo {origin}",
    ]


def test_dates_grow_by_at_least_a_second_with_every_tag(project: Any) -> None:
    frozen = {"clock": lambda: 1_800_000_000.5}
    project.center("ann", **frozen).submit(
        "digits", "a", contract_digest="c", contract_major_change=False, metrics={"accuracy": 1.0}, run="r"
    )
    project.center("max", **frozen).approve("digits", "1.0.0", "good")
    project.center("max", **frozen).release("digits", "dev")
    assert [story.time - 1_800_000_000 for story in project.center().history("digits")] == [0, 1, 2]


def test_each_version_has_a_commit_of_its_own_outside_every_branch(project: Any) -> None:
    project.approved("a")
    project.submit("b")
    commits = {version.commit for version in project.center().state().model("digits").versions.values()}
    head = project.git("rev-parse", "HEAD").strip()
    assert len(commits) == 2
    for commit in commits:
        assert project.git("rev-parse", f"{commit}^").strip() == head
        assert project.git("rev-parse", f"{commit}^{{tree}}") == project.git("rev-parse", "HEAD^{tree}")
        assert project.git("branch", "-a", "--contains", commit) == ""
    assert project.git("rev-parse", "digits#approved#1^{commit}") == project.git("rev-parse", "digits@v1.0.0^{commit}")


def test_nothing_changes_in_this_process_environment(project: Any) -> None:
    before = dict(os.environ)
    project.approved()
    assert dict(os.environ) == before


def test_a_surrounding_git_does_not_redirect_us(
    project: Any, make_project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_project("other")
    monkeypatch.setenv("GIT_DIR", str(other.folder / ".git"))
    project.submit()
    monkeypatch.delenv("GIT_DIR")
    assert (project.git("tag"), other.git("tag")) == ("digits@v1.0.0\n", "")


def test_a_project_in_a_subfolder_reads_its_own_people(project: Any) -> None:
    inner = project.folder / "inner"
    inner.mkdir()
    (inner / "people.yaml").write_text((project.folder / "people.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    project.git("rm", "-q", "people.yaml")
    project.git("add", ".")
    project.git("commit", "-q", "-m", "Move")
    project.folder = inner
    project.approved()
    assert project.center().state().problems == ()


def test_a_bare_clone_and_a_worktree_read_the_same_state(project: Any, tmp_path: Path) -> None:
    project.approved()
    project.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    project.git("worktree", "add", "-q", str(tmp_path / "tree"))
    expected = project.center().state()
    for folder in (tmp_path / "bare.git", tmp_path / "tree"):
        assert Center(folder, policy=Policy(require={"accuracy": 0.9})).state() == expected


def test_a_repository_with_sha256_ids_works_the_same(project: Any, tmp_path: Path) -> None:
    folder = tmp_path / "sha256"
    folder.mkdir()
    (folder / "people.yaml").write_bytes((project.folder / "people.yaml").read_bytes())
    project.folder = folder
    project.git("init", "-q", "--object-format=sha256")
    project.git("add", ".")
    project.git("commit", "-q", "-m", "Start")
    project.approved()
    registry = project.center().state()
    assert len(registry.version("digits", "1.0.0").commit) == 64
    assert registry.problems == ()


def test_other_tags_of_the_repository_are_left_alone(project: Any) -> None:
    project.git("tag", "v1.0")
    project.git("tag", "-a", "-m", "x", "release-2026")
    project.approved()
    assert project.center().state().problems == ()


# People and the commit HEAD.


def test_an_uncommitted_edit_of_people_gives_nobody_a_role(project: Any) -> None:
    project.submit()
    text = (project.folder / "people.yaml").read_text(encoding="utf-8")
    (project.folder / "people.yaml").write_text(text.replace("roles: [data_scientist]", "roles: [manager]"), "utf-8")
    with pytest.raises(RefusedError, match="has the role data_scientist"):
        project.center("ann").release("digits", "dev")
    eve = Actor("Eve", "eve@example.org", project.actors["ann@example.org"].signing_key)
    with pytest.raises(RefusedError, match="not committed; only the commit HEAD counts"):
        Center(project.folder, policy=Policy(), actor=eve).approve("digits", "1.0.0", "x")


def test_a_removed_person_has_no_say_and_one_who_left_keeps_the_past(project: Any) -> None:
    project.approved()
    project.center("max").release("digits", "dev")
    path = project.folder / "people.yaml"
    good = path.read_text(encoding="utf-8")

    def commit(text: str) -> None:
        path.write_text(text, encoding="utf-8")
        project.git("commit", "-q", "-a", "-m", "People")

    before, max_and_after = good.split('  - name: "Max Example"')
    entry, rest = max_and_after.split('  - name: "Mia Example"')
    commit(before + '  - name: "Mia Example"' + rest)
    registry = project.center().state()
    assert registry.version("digits", "1.0.0").state is State.NEW
    assert registry.live("digits", "dev") is None
    assert {problem.tag for problem in registry.problems} == {"digits#approved#1", "digits#dev#2"}

    commit(before + f'  - name: "Max Example"{entry}    until: 2200-01-01\n  - name: "Mia Example"{rest}')
    assert project.center().state().live("digits", "dev") is not None
    commit(before + f'  - name: "Max Example"{entry}    until: 2001-01-01\n  - name: "Mia Example"{rest}')
    assert project.center().state().live("digits", "dev") is None


def test_a_wrong_people_file_is_one_clear_error(project: Any) -> None:
    (project.folder / "people.yaml").write_text("people:\n  - name: Ann\n    roles: [boss]\n", encoding="utf-8")
    project.git("commit", "-q", "-a", "-m", "Break")
    with pytest.raises(InputError, match=r"people\.yaml \(in HEAD\):3:13: unknown role 'boss'"):
        project.center("ann").state()


# What is missing or cannot be used: one clear error each, and no tag.


def refusal(center: Center, kind: type[ModelyardError] = InputError) -> str:
    with pytest.raises(kind) as caught:
        center.submit("digits", "p", contract_digest="c", contract_major_change=False, metrics={}, run="r")
    assert caught.value.remedy
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


def test_a_folder_that_is_no_repository_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is in no Git repository"):
        Center(tmp_path, policy=Policy())
    with pytest.raises(InputError, match="no such folder"):
        Center(tmp_path / "missing", policy=Policy())


def test_a_repository_without_a_commit_says_so(tmp_path: Path, project: Any) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    project.folder = folder
    project.git("init", "-q")
    assert project.center().state().models == {}
    assert "no commit yet" in refusal(project.center("ann"))


def test_a_repository_without_people_says_so(project: Any) -> None:
    project.git("rm", "-q", "people.yaml")
    project.git("commit", "-q", "-m", "Remove")
    assert "HEAD has no people.yaml" in refusal(project.center("ann"))
    assert project.center().state().models == {}


def test_nobody_and_an_unknown_person_are_told(project: Any) -> None:
    assert "Nobody is named" in refusal(project.center())
    eve = Actor("Eve", "eve@example.org", project.actors["ann@example.org"].signing_key)
    said = refusal(Center(project.folder, policy=Policy(), actor=eve), RefusedError)
    assert "eve@example.org is not in people.yaml" in said
    assert "ann@example.org" in said


def acting(project: Any, key: Path | None) -> Center:
    return Center(project.folder, policy=Policy(), actor=Actor("Ann", "ann@example.org", key))


def test_a_missing_or_foreign_or_broken_key_is_told(project: Any, tmp_path: Path) -> None:
    assert "no key to sign with" in refusal(acting(project, None))
    assert "no such signing key" in refusal(acting(project, tmp_path / "nothing"))
    assert "has no such key" in refusal(acting(project, project.actors["max@example.org"].signing_key), RefusedError)
    broken = tmp_path / "broken"
    broken.write_text("hello", encoding="utf-8")
    broken.chmod(0o600)
    assert "no usable SSH key" in refusal(acting(project, broken))


def test_a_private_key_without_its_public_file_is_enough(project: Any, tmp_path: Path) -> None:
    key = tmp_path / "alone"
    key.write_bytes(project.actors["ann@example.org"].signing_key.read_bytes())
    key.chmod(0o600)
    acting(project, key).submit("digits", "p", contract_digest="c", contract_major_change=False, metrics={}, run="r")


def test_a_key_with_a_passphrase_and_no_agent_fails_at_once(project: Any, tmp_path: Path) -> None:
    key = tmp_path / "locked"
    key.write_bytes(project.actors["ann@example.org"].signing_key.read_bytes())
    key.chmod(0o600)
    public = project.actors["ann@example.org"].signing_key.with_suffix(".pub")
    (tmp_path / "locked.pub").write_bytes(public.read_bytes())
    subprocess.run(
        ("ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)), check=True, capture_output=True
    )
    said = refusal(acting(project, key), RefusedError)
    assert "has a passphrase, and no agent holds it" in said
    assert "ssh-add" in said
    assert project.git("tag") == ""


def test_a_public_file_of_another_key_leaves_no_tag_behind(project: Any, tmp_path: Path) -> None:
    key = tmp_path / "mixed"
    key.write_bytes(project.actors["max@example.org"].signing_key.read_bytes())
    key.chmod(0o600)
    public = project.actors["ann@example.org"].signing_key.with_suffix(".pub")
    (tmp_path / "mixed.pub").write_bytes(public.read_bytes())
    assert "doesn't match private" in refusal(acting(project, key))
    assert project.git("tag") == ""


def test_a_signing_program_that_uses_another_key_leaves_no_tag_behind(project: Any, tmp_path: Path) -> None:
    program = tmp_path / "signer"
    other = project.actors["max@example.org"].signing_key
    program.write_text(
        f'#!/bin/sh\nfor last; do :; done\nexec ssh-keygen -Y sign -n git -f "{other}" "$last"\n', "utf-8"
    )
    program.chmod(0o700)
    project.git("config", "gpg.ssh.program", str(program))
    assert "max@example.org signed it in the name of ann@example.org" in refusal(project.center("ann"), IntegrityError)
    assert project.git("tag") == ""


def only(tmp_path: Path, *programs: str) -> str:
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in programs:
        found = shutil.which(program)
        assert found
        (folder / program).symlink_to(found)
    return str(folder)


def test_a_missing_git_and_a_missing_ssh_keygen_are_told(
    project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    center = project.center("ann")
    monkeypatch.setenv("PATH", only(tmp_path, "git"))
    assert "ssh-keygen is not on the PATH" in refusal(center, MissingExtraError)
    monkeypatch.setenv("PATH", str(tmp_path / "home"))
    with pytest.raises(MissingExtraError, match="Git is not on the PATH"):
        project.center("ann")


def test_a_lock_that_can_not_be_made_is_told(project: Any) -> None:
    (project.folder / ".git" / "modelyard-center.lock").mkdir()
    assert "modelyard-center.lock" in refusal(project.center("ann"), StorageError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_repository_is_told(project: Any) -> None:
    folder = project.folder / ".git"
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert "Permission denied" in refusal(project.center("ann"), StorageError)
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("name", ["", "a b", "digits-", "-x", "a#b", "a@b", "zahlé"])
def test_a_name_that_gto_can_not_read_is_refused(project: Any, name: str) -> None:
    with pytest.raises(InputError, match="can't be a model's name"):
        project.center("ann").submit(name, "p", contract_digest="c", contract_major_change=False, metrics={}, run="r")


def test_a_metric_that_is_no_number_is_refused(project: Any) -> None:
    with pytest.raises(InputError, match="accuracy is nan"):
        project.submit(accuracy=float("nan"))


def test_a_wrong_summary_is_refused(project: Any) -> None:
    with pytest.raises(InputError, match="summary does not fit"):
        project.center("ann").submit(
            "digits", "p", contract_digest="c", contract_major_change=False, metrics={}, run="r", summary={"data": 3}
        )


def test_what_does_not_exist_is_named_with_the_nearest(project: Any) -> None:
    project.submit()
    with pytest.raises(NotFoundError, match="Did you mean digits"):
        project.center("max").approve("digit", "1.0.0", "")
    with pytest.raises(NotFoundError, match=r"Did you mean v1\.0\.0"):
        project.center("max").release("digits", "dev", "1.0.1")
    with pytest.raises(NotFoundError):
        project.center().history("nothing")
    with pytest.raises(RefusedError, match="dev is not held"):
        project.center("max").lift("digits", "dev", "")


def test_any_text_can_be_a_reason(project: Any) -> None:
    reason = '#hash\n\n-----BEGIN SSH SIGNATURE-----\n"quoted" \\ ü 漢 \x00'
    project.submit()
    project.center("max").approve("digits", "1.0.0", reason)
    assert project.center().state().version("digits", "1.0.0").approvals[0].reason == reason


def test_the_actor_comes_from_the_settings_or_from_git(project: Any) -> None:
    key = project.actors["ann@example.org"].signing_key
    project.git("config", "user.signingkey", str(key))
    assert actor_of(project.folder) == Actor("Tester", "tester@example.org", key)
    assert actor_of(project.folder, identity="ann@example.org", signing_key="keys/ann") == Actor(
        "", "ann@example.org", project.folder / "keys/ann"
    )
    actor = actor_of(project.folder, identity="ann@example.org")
    assert actor is not None
    Center(project.folder, policy=Policy(), actor=actor).submit(
        "digits", "p", contract_digest="c", contract_major_change=False, metrics={}, run="r"
    )
    assert "Ann Example <ann@example.org>" in project.git("cat-file", "tag", "digits@v1.0.0")


def test_people_are_not_overwritten(project: Any) -> None:
    with pytest.raises(InputError, match="already"):
        init_people(project.folder, [Newcomer("Ann", "ann@example.org", ())], project.folder / "keys")
    with pytest.raises(InputError, match="unknown role"):
        init_people(project.folder.parent, [Newcomer("Ann", "ann@example.org", ("boss",))], project.folder / "keys")


# The cache.


class Remembering(dict[tuple[str, str], bytes]):
    def remember(self, kind: str, key: str, value: bytes) -> None:
        self[kind, key] = value

    def recall(self, kind: str, key: str) -> bytes | None:
        return self.get((kind, key))


def test_a_remembered_state_is_the_state(project: Any) -> None:
    project.approved()
    cache = Remembering()
    first = project.center(cache=cache).state()
    (kept,) = cache.values()
    assert project.center(cache=cache).state() == first == project.center().state()
    assert list(cache.values()) == [kept]
    project.center("max", cache=cache).release("digits", "dev")
    assert project.center(cache=cache).state() == project.center().state()


def test_a_changed_people_file_counts_although_the_tags_are_remembered(project: Any) -> None:
    project.approved()
    cache = Remembering()
    project.center(cache=cache).state()
    text = (project.folder / "people.yaml").read_text(encoding="utf-8").replace("[manager]", "[developer]")
    (project.folder / "people.yaml").write_text(text, encoding="utf-8")
    project.git("commit", "-q", "-a", "-m", "Demote")
    assert project.center(cache=cache).state().version("digits", "1.0.0").state is State.NEW


def test_a_moved_or_deleted_tag_is_noticed_although_it_was_remembered(project: Any) -> None:
    project.approved()
    cache = Remembering()
    center = project.center(cache=cache)
    center.state()
    project.git("tag", "-d", "digits#approved#1")
    assert center.state().version("digits", "1.0.0").state is State.NEW
    assert project.center(cache=cache).state() == center.state()


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x93\x01", json.dumps({"a": 1}).encode()])
def test_a_damaged_memory_is_no_memory(project: Any, damage: bytes) -> None:
    project.approved()
    cache = Remembering()
    expected = project.center(cache=cache).state()
    for key in cache:
        cache[key] = damage
    assert project.center(cache=cache).state() == expected
