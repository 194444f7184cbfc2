"""The demonstration: the whole loop on real data, driven through the command line as a user would drive it."""
