"""Kernels for NVIDIA GPUs: groups as grids of threads, their text in CUDA, and a cubin from it.

    group --template--> TIR with blocks and threads --TVM--> CUDA --NVRTC--> cubin, a part of the artifact's library

A kernel here is one function of TIR and one or more *launches*: what one launch leaves for the next lies in
temporaries, which the memory plan places in the arena like anything else. Tensors lie plainly: a warp reads 32
neighbours.

Modules: `threads` (grids, barriers), `occupancy` (how many blocks run at a time; what launches and bytes take),
`elements` (any group: a thread or a team of threads for each element), `operands` (convolutions and others as products
of matrices), `products` (these in tiles, in float32), `winograd` (convolutions as these, by minimal filtering),
`cores`, `core_tiles`, `runs` and `sides` (these in 16 bits, on tensor cores), `intrinsics` (what that takes beyond
TIR), `depthwise` (convolutions from tiles of pictures), `separable`, `separable_tiles`, `separable_kernel` and
`separable_products` (these with a 1x1 convolution behind them), `expansion`, `expansion_tiles` and `expansion_kernel`
(and with one in front of them), `attention` and `rows` (reductions) in one launch, `core_attention` (attention in 16
bits, on tensor cores), `squeeze` (a mean and small products), `scan` (a loop in one block), `select` (which of them),
`device` (TIR -> CUDA and its launches), `nvrtc` (CUDA -> cubin), `program` (what `c/cuda.c` runs).
"""
