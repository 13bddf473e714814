"""A whole comparison: hyperparameters are chosen, every method and seed runs, the summary is written."""
