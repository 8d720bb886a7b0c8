"""Recordings that others made, in the formats that they come in, as datasets of ours: one file a format."""
