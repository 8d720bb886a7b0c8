"""What is wrong with a dataset, found before training starts: one file a family of checks, run by dataset.py."""
