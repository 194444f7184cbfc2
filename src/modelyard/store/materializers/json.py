"""Plain values as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["JsonMaterializer"]

_FILE = "value.json"


class JsonMaterializer:
    """None, truth values, numbers, texts, lists, and mappings with text keys.

    NaN and infinities are kept (written as `NaN` and `Infinity`, which Python reads but RFC 8259 does not know).
    A tuple comes back as a list. Keys keep their order.
    """

    name: ClassVar[str] = "json"

    def accepts(self, value: Any) -> bool:
        """Say whether the value consists of nothing else, all the way down."""
        waiting = [value]
        while waiting:
            item = waiting.pop()
            kind = type(item)
            if kind in (list, tuple):
                waiting.extend(item)
            elif kind is dict:
                if not all(type(key) is str for key in item):
                    return False
                waiting.extend(item.values())
            elif item is not None and kind not in (bool, int, float, str):
                return False
        return True

    def save(self, value: Any, folder: Path) -> Mapping[str, Any]:
        """Write `value.json`."""
        files, summary = self.pack(value)
        (folder / _FILE).write_bytes(files[_FILE])
        return summary

    def load(self, folder: Path) -> Any:
        """Return the value."""
        return self.unpack({_FILE: (folder / _FILE).read_bytes()})

    def pack(self, value: Any) -> tuple[Mapping[str, bytes], Mapping[str, Any]]:
        """Return the bytes of `value.json`, and the summary."""
        text = json.dumps(value, separators=(",", ":"))
        summary: dict[str, Any] = {"type": type(value).__name__}
        if isinstance(value, list | tuple | dict):
            summary["length"] = len(value)
        elif len(text) <= 100:
            summary["value"] = text
        return {_FILE: text.encode("ascii")}, summary

    def unpack(self, files: Mapping[str, bytes]) -> Any:
        """Return the value."""
        return json.loads(files[_FILE])
