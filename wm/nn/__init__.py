"""The building blocks that models share: attention, rotary positions, layers."""
