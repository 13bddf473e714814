"""What frameworks that own the training loop need; one module for each, which imports that framework alone."""
