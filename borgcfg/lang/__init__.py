"""The language of job configs: Starlark ``*.bcl``, YAML and JSON, evaluated to ``borgcell.specs.JobSpec``."""
