"""Sweeps: the spec, the search, trials, shared stages, the ledger, and the `ractd` command."""
