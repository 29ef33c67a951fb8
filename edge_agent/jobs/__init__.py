"""The kinds of job: one module each; this is their registry."""
