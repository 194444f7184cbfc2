"""What every Objects promises, as tests. Subclass `ObjectsConformance`, and give the hook."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3

from modelyard.contracts import Objects
from modelyard.errors import IntegrityError, NotFoundError

__all__ = ["ObjectsConformance"]

_SIZES = (0, 1, 100, 4096, 200_000, 3_000_001)


class ObjectsConformance:
    """Tests over one implementation; a class of yours derives from it, with `new_objects` and perhaps `flip`."""

    def new_objects(self) -> Objects:
        """Return empty objects; called once in each test."""
        raise NotImplementedError

    def flip(self, objects: Objects, digest: str) -> None:  # noqa: ARG002  (for those who override it)
        """Change one bit of a stored object behind the implementation's back."""
        pytest.skip("this implementation gives no way to reach the stored bytes")

    @pytest.fixture
    def objects(self) -> Objects:
        """Empty objects."""
        return self.new_objects()

    def test_they_are_objects(self, objects: Objects) -> None:
        assert isinstance(objects, Objects)

    @pytest.mark.parametrize("size", _SIZES)
    def test_bytes_come_back_under_their_blake3_digest(self, objects: Objects, size: int) -> None:
        data = random.Random(size).randbytes(size)  # noqa: S311  (test data)
        digest = objects.put(data)
        assert digest == blake3(data).hexdigest()
        assert objects.get(digest) == data
        assert objects.exists(digest)

    @pytest.mark.parametrize("size", _SIZES)
    def test_a_file_has_the_digest_of_its_bytes(self, objects: Objects, tmp_path: Path, size: int) -> None:
        data = random.Random(size).randbytes(size)  # noqa: S311  (test data)
        path = tmp_path / "file"
        path.write_bytes(data)
        assert objects.put_file(path) == objects.put(data)
        assert objects.get(objects.put(data)) == data
        assert path.read_bytes() == data

    def test_a_fetched_file_is_local_and_read_only(self, objects: Objects) -> None:
        digest = objects.put(b"content" * 1000)
        path = objects.fetch(digest)
        assert path.read_bytes() == b"content" * 1000
        assert path.stat().st_mode & 0o222 == 0
        assert objects.fetch(digest) == path

    def test_putting_twice_keeps_one_object(self, objects: Objects) -> None:
        assert objects.put(b"same") == objects.put(b"same")
        assert list(objects.list()) == [(blake3(b"same").hexdigest(), 4)]

    def test_the_list_has_every_object_once_with_its_size(self, objects: Objects) -> None:
        expected = {objects.put(b"x" * size): size for size in range(50)}
        listed = list(objects.list())
        assert dict(listed) == expected
        assert len(listed) == len(expected)

    def test_an_empty_store_lists_nothing(self, objects: Objects) -> None:
        assert list(objects.list()) == []

    def test_what_is_not_there_is_not_found(self, objects: Objects) -> None:
        digest = blake3(b"never put").hexdigest()
        assert not objects.exists(digest)
        with pytest.raises(NotFoundError, match=digest):
            objects.get(digest)
        with pytest.raises(NotFoundError, match=digest):
            objects.fetch(digest)

    @pytest.mark.parametrize("text", ["", "abc", "../../etc/passwd", "A" * 64, "é" * 64])
    def test_what_is_no_digest_is_not_found_and_leads_nowhere(self, objects: Objects, text: str) -> None:
        for ask in (objects.get, objects.fetch, objects.exists, objects.delete):
            with pytest.raises(NotFoundError):
                ask(text)

    def test_a_deleted_object_is_gone_and_can_be_put_again(self, objects: Objects) -> None:
        digest = objects.put(b"data")
        objects.fetch(digest)
        objects.delete(digest)
        objects.delete(digest)  # removing what is not there is no error
        assert not objects.exists(digest)
        with pytest.raises(NotFoundError):
            objects.fetch(digest)
        assert objects.get(objects.put(b"data")) == b"data"

    def test_a_flipped_bit_is_noticed(self, objects: Objects) -> None:
        digest = objects.put(os.urandom(300_000))
        self.flip(objects, digest)
        with pytest.raises(IntegrityError, match=digest):
            objects.get(digest)
        with pytest.raises(IntegrityError, match=digest):
            objects.fetch(digest)

    def test_a_bit_that_flips_between_two_fetches_is_noticed(self, objects: Objects) -> None:
        digest = objects.put(os.urandom(300_000))
        objects.fetch(digest)
        self.flip(objects, digest)
        with pytest.raises(IntegrityError, match=digest):
            objects.fetch(digest)

    def test_many_threads_may_put_the_same_object(self, objects: Objects) -> None:
        data = os.urandom(200_000)
        with ThreadPoolExecutor(8) as pool:
            digests = set(pool.map(lambda _: objects.put(data), range(32)))
        assert digests == {blake3(data).hexdigest()}
        assert objects.get(digests.pop()) == data
