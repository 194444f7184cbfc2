"""The runner: one supervisor, N workers, one listening socket; models are swapped under load without a failed request.

`modelyard.serving.service` starts a runner, `modelyard.serving.client` talks to one. This package page imports
nothing, because every worker process pays for it.
"""
