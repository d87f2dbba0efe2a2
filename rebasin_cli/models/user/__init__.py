"""Models in a user's own code: imported, built, given inputs."""
