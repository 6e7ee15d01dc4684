"""
Decisions without effects.

Nothing in here knows a clock, a signal, a process or a log. Facts come in as
events, time comes in as *now* (seconds, monotonic), and everything that should
happen goes out as actions.
"""
