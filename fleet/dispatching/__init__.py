"""Send builds to nodes: whom to ask, whom to choose, and what to do when a node is lost."""
