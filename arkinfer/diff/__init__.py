"""What differs between two artifacts: facts, graph, weights, other entries, and answers.

One file for each of these; `compare.py` puts them together. Knows no terminal.
"""
