"""Runtimes: how a Borglet runs one task; docker and native behind one port."""
