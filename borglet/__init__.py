"""The Borglet: the agent that runs the tasks of one machine."""
