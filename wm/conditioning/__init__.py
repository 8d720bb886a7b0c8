"""From what is given (action, text) to the four fields that a DiT reads."""
