"""poolrt on a real Ray of this machine: `make ray`. In `make test` they are skipped, since Ray is slow to
install and to start."""
