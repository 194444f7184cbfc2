"""Git, asked by its command line: list tags, read objects, make a signed tag. Nothing here knows a rule.

What the child process needs stands in its own environment; this process's `os.environ` is never changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard.center.events import Event, TagHeader, Unreadable, parse_event, parse_tag_name
from modelyard.center.signatures import Verifier, split_signature
from modelyard.errors import BusyError, InputError, MissingExtraError, ModelyardError, RefusedError, StorageError
from modelyard.files import storage_errors

__all__ = ["Actor", "GitObject", "Repository", "read_tag"]

LOCK_FILE = "modelyard-center.lock"
LOCK_PATIENCE = 30.0

_HEAD = re.compile(
    rb"object ([0-9a-f]{40,64})\ntype commit\ntag ([^\n]+)\ntagger [^<>\n]*<([^<>\n]*)> (\d{1,12}) [-+]\d{4}"
)
# Variables by which a surrounding Git (a hook, a rebase) would send ours to another repository.
_REDIRECTING = re.compile(
    r"GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|COMMON_DIR|NAMESPACE|PREFIX|ALTERNATE_OBJECT_DIRECTORIES|CEILING_.*)"
)
_DURABLE = ("-c", "core.fsync=loose-object,reference")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts.

    Args:
        name: As it will stand in tags.
        email: As in `people.yaml`.
        signing_key: A private SSH key, or a `.pub` file whose private half an SSH agent holds; None where none is set.
    """

    name: str
    email: str
    signing_key: Path | None


@dataclass(frozen=True, slots=True)
class GitObject:
    """One object of the repository: its id, its type and its content."""

    id: str
    kind: str
    content: bytes


class Repository:
    """A project folder inside a Git repository.

    Args:
        folder: The project folder; `people.yaml` lies in it.

    Raises:
        InputError: The folder is missing, in no Git repository, or in one that belongs to somebody else.
        MissingExtraError: Git is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError("There is no such folder.", where=str(folder), remedy="Name the project folder.")
        self.folder = folder
        lines = self._git("rev-parse", "--git-common-dir", "--show-prefix").decode().split("\n")
        self.git_folder = (folder / lines[0]).resolve()
        self.prefix = lines[1]

    def listing(self) -> bytes:
        """Return every tag in one call, a line each: the object's id, a space, the tag's name."""
        return self._git("for-each-ref", "--format=%(objectname) %(refname:lstrip=2)", "refs/tags")

    def read(self, names: Sequence[str]) -> list[GitObject | None]:
        """Read objects in one call.

        Args:
            names: Ids, or expressions such as `HEAD:people.yaml`.

        Returns:
            An object for each name, in order; None where there is none.
        """
        if not names:
            return []
        output = self._git("cat-file", "--batch", data="".join(f"{name}\n" for name in names).encode())
        found: list[GitObject | None] = []
        at = 0
        for _ in names:
            end = output.index(b"\n", at)
            words = output[at:end].split()
            at = end + 1
            if len(words) == 3 and words[2].isdigit():
                size = int(words[2])
                found.append(GitObject(words[0].decode(), words[1].decode(), output[at : at + size]))
                at += size + 1
            else:
                found.append(None)
        return found

    def committed(self, folders: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Return the files that lie in folders of the project in the commit HEAD, not deeper: mode and id by path.

        Args:
            folders: Relative to the project, with a slash at the end; one that is not there has no files.

        Returns:
            Paths are relative to the project; nothing where there is no commit.
        """
        if not self.has_commit():
            return {}
        found: dict[str, tuple[str, str]] = {}
        for line in self._git("ls-tree", "-z", "HEAD", "--", *folders).decode(errors="surrogateescape").split("\0"):
            head, tab, path = line.partition("\t")
            words = head.split()
            if tab and words[1] == "blob":
                found[path] = (words[0], words[2])
        return found

    def setting(self, key: str, *, path: bool = False) -> str | None:
        """Return a value of Git's configuration, or None; with `path`, `~` is written out."""
        kind = ("--type=path",) if path else ()
        done = self._run(("config", *kind, "--get", key))
        return done.stdout.decode().strip() or None if done.returncode == 0 else None

    def has_commit(self) -> bool:
        """Say whether HEAD is a commit."""
        return self._run(("rev-parse", "--verify", "--quiet", "HEAD^{commit}")).returncode == 0

    def make_commit(self, message: str, actor: Actor, when: int) -> str:
        """Make a commit with HEAD's content and parent, on no branch, and return its id."""
        identity = _identity(actor, when)
        return (
            self._git(*_DURABLE, "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", message, extra=identity)
            .decode()
            .strip()
        )

    def make_tag(self, name: str, commit: str, message: str, actor: Actor, when: int) -> bool:
        """Make a signed, annotated tag.

        Returns:
            False where a tag of that name exists, or somebody is making one at this moment: nothing was changed.

        Raises:
            InputError, RefusedError, MissingExtraError: It could not be signed.
        """
        signing = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={actor.signing_key}")
        command = (*_DURABLE, *signing, "tag", "-s", "--cleanup=verbatim", "-F", "-", name, commit)
        # Without a terminal ssh-keygen fails at once where it would wait for a passphrase for ever.
        done = self._run(command, message.encode(), _identity(actor, when) | {"SSH_ASKPASS_REQUIRE": "never"}, True)
        said = done.stderr.decode(errors="replace")
        if done.returncode == 0:
            if not re.search(r"^error: ", said, re.MULTILINE):
                return True
            # Git 2.39 makes an unsigned tag and reports success where ssh-keygen could not sign.
            self.remove_tag(name)
        elif "already exists" in said or "cannot lock ref" in said:
            return False
        raise _signing_error(said, actor) or self._error(said)

    def remove_tag(self, name: str) -> None:
        """Remove a tag that was just made and turned out wrong."""
        self._git("tag", "-d", name)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep out every other process of this machine that makes tags here; a dead one's lock is gone with it.

        Raises:
            BusyError: Another process held it for `LOCK_PATIENCE` seconds.
            StorageError: The repository can't be written.
        """
        path = self.git_folder / LOCK_FILE
        with storage_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            deadline = time.monotonic() + LOCK_PATIENCE
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        what = f"Another process has been making a tag for {LOCK_PATIENCE:.0f} seconds."
                        raise BusyError(what, where=str(path), remedy="Try again; see what it waits for.") from error
                    time.sleep(0.005)
            yield
        finally:
            os.close(handle)

    def _git(self, *arguments: str, data: bytes | None = None, extra: Mapping[str, str] | None = None) -> bytes:
        done = self._run(arguments, data, extra or {})
        if done.returncode != 0:
            raise self._error(done.stderr.decode(errors="replace"))
        return done.stdout

    def _run(
        self,
        arguments: Sequence[str],
        data: bytes | None = None,
        extra: Mapping[str, str] | None = None,
        detached: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {key: value for key, value in os.environ.items() if not _REDIRECTING.fullmatch(key)}
        environment |= {
            "LC_ALL": "C",
            "GIT_TERMINAL_PROMPT": "0",
            # A replacement ref could show other content under a tag object's id.
            "GIT_NO_REPLACE_OBJECTS": "1",
            **(extra or {}),
        }
        try:
            return subprocess.run(
                ("git", *arguments),
                cwd=self.folder,
                input=b"" if data is None else data,
                env=environment,
                capture_output=True,
                check=False,
                start_new_session=detached,
            )
        except FileNotFoundError as error:
            remedy = "Install it, such as with: apt install git"
            raise MissingExtraError("Git is not on the PATH.", remedy=remedy) from error

    def _error(self, said: str) -> ModelyardError:
        where = str(self.folder)
        if "not a git repository" in said:
            remedy = "Make it one: git init, then commit people.yaml and the blueprint."
            return InputError("This folder is in no Git repository.", where=where, remedy=remedy)
        if "dubious ownership" in said:
            remedy = f"If you trust it: git config --global --add safe.directory {self.folder}"
            return InputError("The Git repository belongs to another user.", where=where, remedy=remedy)
        if "No space left on device" in said:
            return StorageError("The disk is full.", where=where, remedy="Free some space and try again.")
        if re.search(r"insufficient permission|Permission denied|Read-only file system", said):
            remedy = "Give your user the right to write the folder .git."
            return StorageError("Git can't write the repository.", where=where, remedy=remedy)
        return ModelyardError(f"Git failed: {said.strip() or 'it said nothing.'}", where=where)


def read_tag(name: str, tag: GitObject | None, verifier: Verifier) -> Event | Unreadable | None:
    """Return the event that a tag records, or None where its name is not in the grammar.

    Args:
        name: The tag's name as the reference says it; the object must say the same, or it was moved here.
        tag: What the reference points to.
        verifier: Checks the signature.
    """
    parts = parse_tag_name(name)
    if parts is None:
        return None
    if tag is None or tag.kind != "tag":
        what = "It is no annotated tag, so it carries no signature."
        return Unreadable(name, tag.id if tag else "", parts.model, what, parts.number)
    signed, signature = split_signature(tag.content)
    head, _, message = signed.partition(b"\n\n")
    fields = _HEAD.fullmatch(head)
    if fields is None:
        return Unreadable(name, tag.id, parts.model, "It does not point to a commit, or has no tagger.", parts.number)
    if fields[2] != name.encode():
        said = fields[2].decode(errors="replace")
        return Unreadable(name, tag.id, parts.model, f"It was made as {said} and moved to this name.", parts.number)
    verdict = verifier.verify(signed, signature)
    header = TagHeader(
        tag=name,
        id=tag.id,
        commit=fields[1].decode(),
        time=int(fields[4]),
        tagger=fields[3].decode(errors="replace"),
        signer=verdict.signer,
        fault=verdict.fault,
    )
    return parse_event(parts, header, message)


def _identity(actor: Actor, when: int) -> dict[str, str]:
    date = f"{when} +0000"
    return {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", actor.name), ("EMAIL", actor.email), ("DATE", date))
    }


def _signing_error(said: str, actor: Actor) -> ModelyardError | None:
    where = str(actor.signing_key)
    if re.search(r"cannot (run|exec|spawn) \S*ssh-keygen", said):
        remedy = "Install OpenSSH's client, such as with: apt install openssh-client"
        return MissingExtraError("ssh-keygen is not on the PATH; Git signs tags with it.", remedy=remedy)
    if "passphrase" in said:
        remedy = f"Hand it to an agent: eval $(ssh-agent) && ssh-add {actor.signing_key}"
        return RefusedError("The signing key has a passphrase, and no agent holds it.", where=where, remedy=remedy)
    if "agent" in said or "UNPROTECTED PRIVATE KEY" in said or "bad permissions" in said:
        remedy = f"Make it yours alone: chmod 600 {actor.signing_key}; or add it to your agent: ssh-add"
        return RefusedError(f"The signing key can't be used: {_last_line(said)}", where=where, remedy=remedy)
    if "failed to sign" in said or re.search(r"Couldn't load|invalid format|doesn't match private", said):
        remedy = "Set signing_key to a private SSH key, such as ~/.ssh/id_ed25519."
        return InputError(f"The tag could not be signed: {_last_line(said)}", where=where, remedy=remedy)
    return None


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip() and "unable to sign" not in line]
    return f"{lines[-1]}." if lines else "Git said nothing."
