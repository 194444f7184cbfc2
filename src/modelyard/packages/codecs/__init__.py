"""Wire formats, each generated from a contract: JSON, CSV, protobuf, Arrow, Parquet and tensors."""
