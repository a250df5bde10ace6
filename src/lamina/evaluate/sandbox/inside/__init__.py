"""What runs in processes of its own: the launcher, its supervisors, and the runner of one program.

The launcher is started as `python -I -S -B` with an empty environment and knows nothing of lamina:
these files import each other relatively and the standard library only.
"""
