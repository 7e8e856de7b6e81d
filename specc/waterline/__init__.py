"""What a profile means: which kernel to look at first, and a page of charts that shows why.

`gaps` sums calls up by kernel and by block of the spec, and says what holds a kernel back; `axes` divides axes;
`origin` says where the numbers come from; `page` fills `page.html` with all of it.

A waterline is the ideal time under the actual one, for a sequence of kernels (Lavin, "On the efficiency of
convolutional neural networks", arXiv:2404.03617).
"""
