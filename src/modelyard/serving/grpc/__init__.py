"""Open Inference Protocol v2 over gRPC, on an HTTP/2 server of its own. This page imports nothing, as workers pay."""
