"""A trained policy at work: the router that asks it, the log of what it chose, and a server around it."""

from routegym.serving.router import Decision, Route, Router, load_router

__all__ = ["Decision", "Route", "Router", "load_router"]
