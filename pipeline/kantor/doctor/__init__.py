"""`kantor doctor`: what works on this machine or in this allocation, what does not, and the cure.

A check is a function without arguments that returns a `Finding`; `examine` runs all of them at once, each bounded in
time. What may crash or hang (PyTorch, MPI, Ray, SLURM) is tried for real, in processes of its own.
"""
