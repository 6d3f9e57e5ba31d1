"""Without Azure: the same functions on an embedded engine, with a channel and a chat page."""
