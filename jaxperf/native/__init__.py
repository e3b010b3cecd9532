"""A traced function as machine code for a product of axes: one loop nest in registers, where XLA runs a loop over
memory for almost every operation. Made from the same tape that NumPy plays, so it is no second copy of anything."""
