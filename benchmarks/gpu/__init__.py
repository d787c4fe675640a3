"""What to run first on a GPU: `python -m benchmarks.gpu correct`, then `speed`, then `user`.

docs/gpu.md says how to run them and what each column means.
"""
