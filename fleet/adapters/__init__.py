"""The thin edge: each module speaks to one foreign thing (sshd, Docker, buildkitd, buildx, the key files)."""
