"""Every executor keeps the rules of its contract."""

from __future__ import annotations

from modelyard.contracts import Executor
from modelyard.engines.inline import InlineExecutor
from modelyard.engines.processes import ProcessExecutor
from modelyard.testing.executor import ExecutorConformance, IsolatedExecutorConformance


class TestInline(ExecutorConformance):
    def make_executor(self, workers: int) -> Executor:
        return InlineExecutor()


class TestProcesses(IsolatedExecutorConformance):
    def make_executor(self, workers: int) -> Executor:
        return ProcessExecutor(workers)
