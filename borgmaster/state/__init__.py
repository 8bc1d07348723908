"""The pure replicated core: commands in, events out; no clock, no I/O, no dice."""
