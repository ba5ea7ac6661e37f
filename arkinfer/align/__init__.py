"""Where an artifact leaves its model: every stage of a build compared with the one before it.

Runs on the host. Nothing that runs on a device imports it.
"""
