"""EDM diffusion: noise schedule, denoiser and consistency parameterizations, samplers."""
