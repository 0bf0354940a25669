"""Diffusion: noise levels, schedules, samplers and patch fusion, for any network."""
