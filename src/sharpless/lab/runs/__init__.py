"""One run and its record, and many runs in processes or on a cluster."""
