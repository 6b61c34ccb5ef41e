"""Figures: one per file, a pure `*_info` that computes and a thin `plot_*` that draws."""
