"""The HTTP front of a worker: `application` routes, each surface is a module of handlers."""
