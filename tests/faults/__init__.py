"""What may go wrong around a daemon, made to happen."""
