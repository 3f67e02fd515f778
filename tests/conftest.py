"""One thread for every test process: tiny models only lose time to more, and bits do not depend on the machine."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
