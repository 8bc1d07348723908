"""The shell around the scheduler: the feed of changes, its child process, and the client of that process."""
