"""Tasks that are built in."""
