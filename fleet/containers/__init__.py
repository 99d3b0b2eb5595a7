"""What fleet puts on a host: the containers, their configuration and files, and where their images come from."""
