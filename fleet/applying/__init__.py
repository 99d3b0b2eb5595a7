"""Carry out what was decided, tell it as events, and note on the hosts what was done."""
