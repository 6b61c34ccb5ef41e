"""Datasets: collected, stored through Minari, flattened, windowed, normalized."""
