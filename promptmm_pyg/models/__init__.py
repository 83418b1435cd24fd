"""Baselines and teachers of the field, each from its paper, over one operator."""
