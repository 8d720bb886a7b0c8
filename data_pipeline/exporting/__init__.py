"""Datasets of ours in formats that other people's tools read."""
