"""Files that put a service into production beside others: a systemd unit, and an nginx site in front of it."""
