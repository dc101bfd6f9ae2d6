"""The documentation: what its pages say is run, and the built site is looked at."""
