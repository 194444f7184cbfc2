"""Sets the garbage collector of whatever Python starts with this folder on its path, as BENCH_COLLECTOR says.

`freeze` moves what is there two seconds after the start out of the collector's sight; what is loaded by then is
a worker's program and models.
"""

import gc
import os
import threading

SETTING = os.environ.get("BENCH_COLLECTOR", "default")


def _freeze() -> None:
    gc.collect()
    gc.freeze()


if "freeze" in SETTING:
    timer = threading.Timer(2.0, _freeze)
    timer.daemon = True
    timer.start()
if "rare" in SETTING:
    gc.set_threshold(10_000, 50, 100)
if "off" in SETTING:
    gc.disable()
