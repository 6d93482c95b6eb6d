"""sofs: a scale-out file server. README.md walks through the source in reading order."""
