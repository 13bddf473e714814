"""A task of the user, and the trial that one run hands to it."""
