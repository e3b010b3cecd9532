"""What `scan_speed.py` measures, one file each: the machine, the product and the flat form, gradients, processes."""
