"""What every Names promises, as tests. Subclass `NamesConformance`, and give the hook."""

from __future__ import annotations

import pytest
from blake3 import blake3

from modelyard.contracts import Names
from modelyard.errors import InputError, NotFoundError

__all__ = ["NamesConformance"]

_NAMES = (
    "plain",
    "cache/0123",
    "runs/20260131-142501-3f9c",
    "a",
    "a/b",
    "a/b/c",
    "a=",
    "a=/b",
    ".hidden/..",
    "..",
    "../outside",
    "with space",
    "größe",
    "100%",
    "a%2Fb",
    "digits@v1.0.0#2",
    "x" * 200,
)


def digest_of(text: str) -> str:
    """Return some digest for a name."""
    return blake3(text.encode()).hexdigest()


class NamesConformance:
    """Tests over one implementation; a class of yours derives from it, with `new_names` and perhaps `reopened`."""

    def new_names(self) -> Names:
        """Return empty names; called once in each test."""
        raise NotImplementedError

    def reopened(self, names: Names) -> Names:
        """Return the same names as another process would open them; the same object where that can't be."""
        return names

    @pytest.fixture
    def names(self) -> Names:
        """Empty names."""
        return self.new_names()

    def test_they_are_names(self, names: Names) -> None:
        assert isinstance(names, Names)

    @pytest.mark.parametrize("name", _NAMES)
    def test_a_name_leads_to_its_digest(self, names: Names, name: str) -> None:
        assert names.get(name) is None
        names.set(name, digest_of(name))
        assert names.get(name) == digest_of(name)
        assert self.reopened(names).get(name) == digest_of(name)

    def test_names_do_not_disturb_each_other(self, names: Names) -> None:
        for name in _NAMES:
            names.set(name, digest_of(name))
        assert {name: names.get(name) for name in _NAMES} == {name: digest_of(name) for name in _NAMES}
        assert list(names.list()) == sorted((name, digest_of(name)) for name in _NAMES)

    def test_setting_again_moves_the_name(self, names: Names) -> None:
        names.set("a", digest_of("1"))
        names.set("a", digest_of("2"))
        assert names.get("a") == digest_of("2")
        assert list(names.list()) == [("a", digest_of("2"))]

    def test_a_prefix_is_text_and_need_not_end_at_a_slash(self, names: Names) -> None:
        for name in ("runs/1", "runs/12", "runs/2", "runs/1/log", "runsome", "cache/1"):
            names.set(name, digest_of(name))
        assert [name for name, _ in names.list("runs/1")] == ["runs/1", "runs/1/log", "runs/12"]
        assert [name for name, _ in names.list("runs/")] == ["runs/1", "runs/1/log", "runs/12", "runs/2"]
        assert [name for name, _ in names.list("runs")] == ["runs/1", "runs/1/log", "runs/12", "runs/2", "runsome"]
        assert list(names.list("none")) == []
        assert list(names.list("none/of/these")) == []

    def test_a_deleted_name_is_gone_and_others_stay(self, names: Names) -> None:
        names.set("a", digest_of("a"))
        names.set("a/b", digest_of("b"))
        names.delete("a")
        names.delete("a")  # removing what is not there is no error
        assert names.get("a") is None
        assert list(names.list()) == [("a/b", digest_of("b"))]

    @pytest.mark.parametrize("name", ["", "/", "a/", "/a", "a//b", "x" * 300])
    def test_a_name_that_can_not_be_kept_is_refused(self, names: Names, name: str) -> None:
        with pytest.raises(InputError):
            names.set(name, digest_of(name))

    def test_only_a_digest_can_be_named(self, names: Names) -> None:
        with pytest.raises(NotFoundError):
            names.set("a", "not a digest")
        assert names.get("a") is None
