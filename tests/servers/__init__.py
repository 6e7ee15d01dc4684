"""Real servers beside the daemon; on one Python only, as they say nothing of it."""
