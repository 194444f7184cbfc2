"""Wire formats, each generated from a contract: JSON, CSV and protobuf."""
