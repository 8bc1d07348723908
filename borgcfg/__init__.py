"""borgcfg: the command line, and the language of job configs."""
