"""The outside world, one module per part of it; each is the only importer of its library."""
