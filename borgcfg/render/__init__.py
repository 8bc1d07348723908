"""What borgcfg shows: tables, JSON and YAML made from wire messages. Everything but ``output`` is pure."""
