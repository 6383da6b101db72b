"""The energy distance from random directions, in O(P N log N)."""

from kantor_kernels.sliced.functional import sliced_energy_distance

__all__ = ["sliced_energy_distance"]
