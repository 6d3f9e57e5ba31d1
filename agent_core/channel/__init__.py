"""Talking with the channel: who is calling, who we are, and the Bot Connector."""
