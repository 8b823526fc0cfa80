"""Shipped data: the embedded pool's models and the recordings made with it."""
