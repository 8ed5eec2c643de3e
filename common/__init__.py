"""What the three projects share: run folders, data, devices, process pool, command line, plot style."""
