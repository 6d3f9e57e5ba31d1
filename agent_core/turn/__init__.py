"""One turn: the context a handler gets, the middleware around it, and the state it leaves."""
