specc compile gpu_layout.specc --target cuda:sm_90 --passes canonicalize,layout,fusion -o a
