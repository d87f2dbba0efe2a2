"""Models of transformers: built from a config, made small, given inputs."""
