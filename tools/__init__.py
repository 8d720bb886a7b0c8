"""What a person runs: play a world, replay a session, look at what was recorded."""
