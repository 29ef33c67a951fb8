"""edge-agent: the daemon that says a small Linux device is alive, and loses nothing while it is offline.

The map, top to bottom; each layer imports only from those below it (``lint-imports`` proves it):

``cli``       one module per verb that a person types
``agent``     the composition root: builds everything, starts it in dependency order, stops it in reverse
``services``  long-lived tasks; they carry out what the core decides
``adapters``  the outside world; each is the only importer of its library
``ports``     the seams between services and adapters
``core``      pure decisions: no I/O, no clock, no randomness of its own
``errors``    the exception tree
"""

__version__ = "0.1.0"
