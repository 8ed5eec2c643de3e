"""Every script against every fault: what is killed, full, damaged or started twice ends in the undisturbed numbers."""
