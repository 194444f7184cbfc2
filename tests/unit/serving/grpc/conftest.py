from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.unit.serving.grpc.front import Front, Wire


@pytest.fixture
def fronts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Front]]:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    made = []

    def make(**options: Any) -> Front:
        made.append(Front(**options))
        return made[-1]

    yield make
    for front in made:
        front.close()


@pytest.fixture
def front(fronts: Callable[..., Front]) -> Front:
    return fronts()


@pytest.fixture
def channels() -> Iterator[Callable[[Front], grpc.Channel]]:
    made = []

    def make(front: Front) -> grpc.Channel:
        made.append(grpc.insecure_channel(front.address, options=[("grpc.use_local_subchannel_pool", 1)]))
        return made[-1]

    yield make
    for channel in made:
        channel.close()


@pytest.fixture
def wires() -> Iterator[Callable[..., Wire]]:
    made = []

    def make(front: Front, **options: Any) -> Wire:
        made.append(Wire(front.port, **options))
        return made[-1]

    yield make
    for wire in made:
        wire.close()
