"""What this machine can run and build, what an artifact needs, and what mends each gap.

One file per family of checks; each check looks at one thing and gives findings. What may crash or
hang happens in a process of its own. Nothing is guessed: what could not be found out says so.
"""
