"""The laboratory: train one recipe with several methods and seeds, and keep what each run did and cost."""
