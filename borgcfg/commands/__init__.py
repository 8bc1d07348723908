"""The commands of borgcfg, one module each. Modules import click; what is heavy is imported when a command runs."""
