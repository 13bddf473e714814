"""Adapters for frameworks that own the training loop; each module imports only its own framework."""
