"""The volume from another node."""
