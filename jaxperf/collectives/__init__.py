"""What one collective costs: α–β primitives over the tiers of a fabric."""
