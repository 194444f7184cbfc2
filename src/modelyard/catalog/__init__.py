"""The catalog: runs, metrics and lineage, indexed for questions.

It can be deleted at any time, and rebuilt from the manifests in the store.
"""

from __future__ import annotations

from modelyard.catalog.catalog import Catalog, Point
from modelyard.catalog.lineage import Lineage, Link
from modelyard.catalog.liveness import is_alive, process_identity, settle

__all__ = ["Catalog", "Lineage", "Link", "Point", "is_alive", "process_identity", "settle"]
