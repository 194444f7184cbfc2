"""Predict a file that may be larger than memory, in worker processes, and go on where a kill stopped it."""
