"""What holds for all tests: Ctrl-C reaches the processes that they start."""

from __future__ import annotations

import signal

# A shell starts background jobs, such as CI's, with Ctrl-C ignored, and children would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
