"""The built-in step kinds: functions `(context, *, ports, parameters) -> {output: value}` that the engine calls."""
