"""Figures, measured side by side in one run; they are printed, never asserted."""
