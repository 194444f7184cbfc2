"""One module for each way to keep a model; `modelyard.packages.model` finds them by name."""
