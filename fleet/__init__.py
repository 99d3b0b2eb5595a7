"""A fleet manager for native container builders."""
