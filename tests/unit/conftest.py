"""Settings of all unit tests."""

from hypothesis import settings

# A busy machine makes single examples slow; the suite's own time limit catches what hangs.
settings.register_profile("fleet", deadline=None)
settings.load_profile("fleet")
