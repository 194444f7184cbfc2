"""The scheduler that walks a plan, and the executors that run its tasks."""
