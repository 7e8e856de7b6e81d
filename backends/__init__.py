"""Graph -> something that runs: `torch`, the reference and judge, and `tvm`, the kernels."""
