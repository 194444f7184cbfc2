from __future__ import annotations

import asyncio
import os

from modelyard.serving.tally import DELAY, Tally


def test_counts_of_all_workers_come_together_and_survive_their_worker(tmp_path):
    def other():
        async def answer():
            tally = Tally(tmp_path)
            tally.count("m", "v1", 200, 0.003)
            tally.count("m", "v1", 200, 9.0)
            await asyncio.sleep(3 * DELAY)

        asyncio.run(answer())

    pid = os.fork()
    if not pid:
        other()
        os._exit(0)
    os.waitpid(pid, 0)

    async def together():
        tally = Tally(tmp_path)
        tally.count("m", "v1", 200, 0.003)
        tally.count("m", "v1", 422, 0.0001)
        return tally.together()

    total = asyncio.run(together())
    assert total["m", "v1", 200].requests == 3
    assert total["m", "v1", 200].buckets == [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert total["m", "v1", 200].seconds == 9.006
    assert total["m", "v1", 422].buckets[0] == 1
