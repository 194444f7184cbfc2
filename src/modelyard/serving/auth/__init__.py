"""Who may ask a service: API keys, tokens, the guard in front of every route, and TLS."""
