"""A small certificate authority for mutual TLS; it knows nothing of fleets."""
