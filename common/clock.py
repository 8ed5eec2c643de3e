"""When this process began: a script with a wall-clock budget imports STARTED before anything that takes long."""

import time

STARTED = time.perf_counter()
