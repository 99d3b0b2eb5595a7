"""Gather facts, once or for as long as somebody looks."""
