"""The permutation two-sample test for energy distance and MMD."""

from kantor_kernels.permutation.functional import TwoSampleResult, two_sample_test

__all__ = ["TwoSampleResult", "two_sample_test"]
