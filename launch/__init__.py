"""Where the work runs: stages and pipelines, with Ray or without."""
