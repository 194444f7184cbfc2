"""A tag counts only if its signature is good; our verdict is that of `git verify-tag`."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.center import State
from modelyard.center.people import parse_people
from modelyard.center.reading import CACHE_KEY, SEAL_BYTES
from modelyard.center.signatures import Verifier, split_signature
from modelyard.errors import InputError
from modelyard.testing.tags import load_key, public_half, sign

TAG = "digits#approved#1"
Change = Callable[[bytes, bytes, Any], bytes]
"""Takes what was signed, the signature, and the project; returns the content of the forged tag."""


def edited(payload: bytes, signature: bytes, _: Any) -> bytes:
    return payload.replace(b"as good as it says", b"as good as I say..") + signature


def truncated(payload: bytes, signature: bytes, _: Any) -> bytes:
    lines = signature.split(b"\n")
    return payload + b"\n".join((*lines[:2], *lines[-2:]))


def cut_off(payload: bytes, signature: bytes, _: Any) -> bytes:
    return payload + signature[: len(signature) // 2]


def unsigned(payload: bytes, _: bytes, __: Any) -> bytes:
    return payload


def rekeyed(payload: bytes, signature: bytes, project: Any) -> bytes:
    """Max's signature with Mia's key in it."""
    lines = signature.split(b"\n")
    raw = base64.b64decode(b"".join(lines[1:-2]))
    ours = public_half(load_key(project.actors["max@example.org"].signing_key)).blob
    theirs = public_half(load_key(project.actors["mia@example.org"].signing_key)).blob
    assert ours in raw
    return payload + b"\n".join((lines[0], base64.b64encode(raw.replace(ours, theirs)), *lines[-2:]))


def other_namespace(payload: bytes, _: bytes, project: Any) -> bytes:
    return payload + sign(payload, load_key(project.actors["max@example.org"].signing_key), namespace="file")


def borrowed(payload: bytes, _: bytes, project: Any) -> bytes:
    """The good signature of another tag."""
    other = project.git("cat-file", "tag", "digits@v1.0.0").encode()
    return payload + split_signature(other)[1]


def a_stranger(payload: bytes, _: bytes, project: Any) -> bytes:
    path = project.folder.parent / "stranger"
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)), check=True)
    return payload + sign(payload, load_key(path))


def trailing_text(payload: bytes, signature: bytes, _: Any) -> bytes:
    return payload + signature + b"and more\n"


def another_signature_before(payload: bytes, _: bytes, project: Any) -> bytes:
    key = load_key(project.actors["max@example.org"].signing_key)
    longer = payload + sign(b"something else", key)
    return longer + sign(longer, key)


def with_sha256(payload: bytes, _: bytes, project: Any) -> bytes:
    return payload + sign(payload, load_key(project.actors["max@example.org"].signing_key), digest="sha256")


def untouched(payload: bytes, signature: bytes, _: Any) -> bytes:
    return payload + signature


def put(project: Any, tag: str, content: bytes) -> None:
    made = project.git("hash-object", "-t", "tag", "-w", "--stdin", "--literally", data=content).strip()
    project.git("update-ref", f"refs/tags/{tag}", made)


def git_says(project: Any, tag: str) -> bool:
    signers = project.folder.parent / "allowed_signers"
    people = parse_people((project.folder / "people.yaml").read_bytes())
    signers.write_text(people.allowed_signers(), encoding="utf-8")
    command = ("git", "-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-tag", tag)
    return subprocess.run(command, cwd=project.folder, capture_output=True, check=False).returncode == 0


def we_say(project: Any, tag: str) -> bool:
    payload, signature = split_signature(project.git("cat-file", "tag", tag).encode())
    people = parse_people((project.folder / "people.yaml").read_bytes())
    return Verifier().verify(payload, signature).signer in people.by_fingerprint()


GOOD: list[Change] = [untouched, with_sha256, trailing_text]
BAD: list[Change] = [edited, truncated, cut_off, unsigned, rekeyed, other_namespace, borrowed, a_stranger]


@pytest.mark.parametrize("change", [*GOOD, *BAD, another_signature_before], ids=lambda change: change.__name__)
def test_our_verdict_is_that_of_git(project: Any, change: Change) -> None:
    project.approved()
    payload, signature = split_signature(project.git("cat-file", "tag", TAG).encode())
    put(project, TAG, change(payload, signature, project))
    assert we_say(project, TAG) == git_says(project, TAG)
    if change is not another_signature_before:
        assert we_say(project, TAG) == (change in GOOD)


@pytest.mark.parametrize("change", [*BAD, another_signature_before], ids=lambda change: change.__name__)
def test_a_forged_approval_does_not_count_and_is_told(project: Any, change: Change) -> None:
    project.approved()
    payload, signature = split_signature(project.git("cat-file", "tag", TAG).encode())
    put(project, TAG, change(payload, signature, project))
    registry = project.center().state()
    assert registry.version("digits", "1.0.0").state is State.NEW
    (problem,) = registry.problems
    assert problem.tag == TAG
    assert problem.what
    assert problem.remedy


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa:256", "ecdsa:384", "ecdsa:521", "rsa:2048", "rsa:3072"])
def test_tags_signed_by_git_with_any_key_type_are_accepted_as_git_does(project: Any, tmp_path: Path, kind: str) -> None:
    name, _, bits = kind.partition(":")
    key = tmp_path / "key"
    size = ("-b", bits) if bits else ()
    subprocess.run(("ssh-keygen", "-q", "-t", name, *size, "-N", "", "-f", str(key)), check=True)
    people = project.folder / "people.yaml"
    line = key.with_suffix(".pub").read_text(encoding="utf-8").strip()
    entry = f'  - name: Kim\n    email: kim@example.org\n    roles: [manager]\n    keys: ["{line}"]\n'
    people.write_text(people.read_text(encoding="utf-8") + entry, encoding="utf-8")
    signing = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={key}")
    project.git(*signing, "tag", "-s", "-m", "x", "probe")
    assert we_say(project, "probe")
    assert git_says(project, "probe")


def test_who_left_is_judged_by_git_as_by_us(project: Any) -> None:
    project.approved()
    people = project.folder / "people.yaml"
    good = people.read_text(encoding="utf-8")
    for day, counts in (("2001-01-01", False), ("2200-01-01", True)):
        people.write_text(good.replace('  - name: "Mia', f'    until: {day}\n  - name: "Mia'), encoding="utf-8")
        project.git("commit", "-q", "-a", "-m", day)
        assert git_says(project, TAG) is counts
        assert (project.center().state().version("digits", "1.0.0").state is State.APPROVED) is counts


def test_a_good_tag_under_another_name_does_not_count(project: Any) -> None:
    project.approved()
    project.git("update-ref", "refs/tags/digits#production#2", project.git("rev-parse", TAG).strip())
    (problem,) = project.center().state().problems
    assert "was made as digits#approved#1 and moved" in problem.what


def test_a_lightweight_tag_does_not_count(project: Any) -> None:
    project.submit()
    project.git("tag", TAG, "digits@v1.0.0^{commit}")
    registry = project.center().state()
    assert registry.version("digits", "1.0.0").state is State.NEW
    assert "no annotated tag" in registry.problems[0].what


def test_a_replaced_object_is_read_as_it_was_signed(project: Any) -> None:
    project.submit()
    project.center("max").reject("digits", "1.0.0", "no")
    bad = project.git("rev-parse", "digits#rejected#1").strip()
    payload = project.git("cat-file", "tag", "digits#rejected#1").replace('"reject"', '"approve"')
    made = project.git("hash-object", "-t", "tag", "-w", "--stdin", "--literally", data=payload.encode()).strip()
    project.git("replace", "-f", bad, made)
    assert project.center().state().version("digits", "1.0.0").state is State.REJECTED


def test_a_deleted_decision_leaves_a_gap_that_is_told(project: Any) -> None:
    project.submit()
    project.center("max").reject("digits", "1.0.0", "no")
    project.submit("b")
    project.center("max").approve("digits", "1.1.0", "yes")
    project.git("tag", "-d", "digits#rejected#1")
    (problem,) = project.center().state().problems
    assert "has the number 1: it was deleted" in problem.what


@pytest.mark.parametrize("content", [b"", b"x", b"object 1\n\n", b"\xff" * 50, b"tag digits#dev#9\n\n{}"])
def test_no_object_under_our_names_stops_the_reading(project: Any, content: bytes) -> None:
    names = {"digits@v1.0.0", "digits#approved#9", "digits#dev#10", "digits#dev!#11", "digits@deprecated"}
    made = project.git("hash-object", "-t", "tag", "-w", "--stdin", "--literally", data=content)
    for name in names:
        # By hand: update-ref refuses what is no tag object, a push from elsewhere or a damaged disk may not.
        (project.folder / ".git" / "refs" / "tags" / name).write_text(made, encoding="ascii")
    assert {problem.tag for problem in project.center().state().problems} == names
    assert project.submit() == "1.1.0"


def test_a_tag_whose_object_is_missing_is_told(project: Any) -> None:
    project.approved()
    (project.folder / ".git" / "refs" / "tags" / "digits#dev#2").write_text("1" * 40 + "\n", encoding="ascii")
    registry = project.center().state()
    assert [problem.tag for problem in registry.problems] == ["digits#dev#2"]


class Remembering(dict[tuple[str, str], bytes]):
    """What a catalog keeps for us, and somebody else can write to."""

    def remember(self, kind: str, key: str, value: bytes) -> None:
        self[kind, key] = value

    def recall(self, kind: str, key: str) -> bytes | None:
        return self.get((kind, key))


def test_a_memory_that_somebody_else_wrote_vouches_for_no_signature(project: Any) -> None:
    project.approved()
    max_signed = next(e.signer for e in project.center().state().model("digits").events if e.tag == TAG)
    payload, _ = split_signature(project.git("cat-file", "tag", TAG).encode())
    put(project, TAG, payload)
    cache = Remembering()
    assert project.center(cache=cache).state().version("digits", "1.0.0").state is State.NEW
    ((place, kept),) = cache.items()
    blob = msgspec.msgpack.decode(kept[SEAL_BYTES:])
    event = next(event for event in blob[0][3] if event["tag"] == TAG)
    event["signer"], event["fault"] = max_signed, ""
    forged = msgspec.msgpack.encode(blob)
    for value in (forged, kept[:SEAL_BYTES] + forged, bytes(SEAL_BYTES) + forged):
        cache[place] = value
        assert project.center(cache=cache).state().version("digits", "1.0.0").state is State.NEW


def test_the_key_of_the_memory_is_for_its_owner_alone(project: Any) -> None:
    project.center(cache=Remembering()).state()
    assert (project.folder / ".git" / CACHE_KEY).stat().st_mode & 0o777 == 0o600


def test_a_repository_without_a_key_has_no_memory_and_the_same_state(project: Any) -> None:
    project.approved()
    (project.folder / ".git" / CACHE_KEY).write_bytes(b"short")
    cache = Remembering()
    assert project.center(cache=cache).state() == project.center().state()
    assert not cache


def test_a_release_tag_of_another_repository_does_not_count_here(project: Any, make_project: Any) -> None:
    project.approved()
    other = make_project("other")
    other.approved(package="b" * 64)
    other.center("max").release("digits", "dev")
    project.git("fetch", "-q", str(other.folder), "refs/tags/digits#dev#2:refs/tags/digits#dev#2")
    registry = project.center().state()
    assert registry.live("digits", "dev") is None
    assert "another package" in registry.problems[0].what


def test_a_release_tag_that_comes_back_after_a_rollback_changes_nothing(project: Any) -> None:
    first = project.approved()
    manager = project.center("max")
    manager.release("digits", "dev", first)
    second = project.submit("b" * 64)
    manager.approve("digits", second, "better")
    live = manager.release("digits", "dev", second)
    manager.rollback("digits", "dev", reason="worse")
    old = project.git("rev-parse", live.tag).strip()
    # Under a new number it is a tag that was moved; under its own it is the tag that was there all the time.
    project.git("update-ref", "refs/tags/digits#dev#9", old)
    project.git("update-ref", f"refs/tags/{live.tag}", old)
    registry = project.center().state()
    assert registry.live("digits", "dev").version == first
    assert "digits#dev#9" in {problem.tag for problem in registry.problems}


def test_an_email_in_other_letters_or_with_spaces_is_nobody_elses(project: Any) -> None:
    people = project.folder / "people.yaml"
    good = people.read_text(encoding="utf-8")
    entry = good[good.index('  - name: "Max') : good.index('  - name: "Mia')]
    for email in ("MAX@Example.org", "max@example.org "):
        doubled = good + entry.replace("max@example.org", email)
        with pytest.raises(InputError, match="stands twice"):
            parse_people(doubled.encode())
    for email in ("max @example.org", "max@exam\u200bple.org", "max@example.org\\nann@example.org"):
        with pytest.raises(InputError):
            parse_people(good.replace("max@example.org", email, 1).encode())
