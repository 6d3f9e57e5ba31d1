"""The agent that speaks first."""
