"""The nouns: what is wanted (spec), what is found (facts), how it is (snapshot)."""
