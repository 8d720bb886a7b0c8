"""The engine: steps, learners, checkpoints and logs. Knows no model and no data format."""
