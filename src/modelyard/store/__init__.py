"""Bytes named by their BLAKE3 digest, trees of them, names that point at them, and values made of them."""
