"""Turns nobody asked for: callbacks, notifications, and the conversations they go to."""
