"""BuildKit's control API, trimmed; `make proto` compiles control.proto."""
