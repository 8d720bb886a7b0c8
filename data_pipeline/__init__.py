"""Recordings in, batches out."""
